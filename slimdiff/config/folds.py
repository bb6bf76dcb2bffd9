"""How subjects are divided."""

from typing import Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Fraction, Section, Seed


class FoldsConfig(Section):
    """Subject-wise folds, each with train, val and test."""

    k: int = Field(default=3, ge=1)
    """Folds; 1 is allowed only with `use_split` (paper: 3)."""
    val_fraction: Fraction = 0.15
    """Share of the subjects outside the test part that go to val, at least one where there are four or more."""
    seed: Seed = 0
    """Seed of the division."""
    use_split: bool = False
    """Honour the dataset's own `split`: its test is every fold's test, and the folds rotate val."""
    stratify_by: tuple[Literal["group", "acquisition", "lesion_tercile", "lobe"], ...] = (
        "group",
        "acquisition",
        "lesion_tercile",
        "lobe",
    )
    """Keys in order of weight; a key that cannot hold in every fold is left out, and folds.tsv says which held."""

    @model_validator(mode="after")
    def _test_part(self):
        if self.k == 1 and not self.use_split:
            raise ValueError("k 1 leaves no held-out subjects: at least 2 folds, or use_split: true")
        return self
