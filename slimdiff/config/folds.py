"""How subjects are divided."""

from typing import Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Fraction, InheritingSection, Seed


class FoldsConfig(InheritingSection):
    """Folds by person (all scans of a person are in one part), each with train, val and test."""

    k: int = Field(default=3, ge=1)
    """Number of folds (paper: 3); 1 requires `use_split`."""
    val_fraction: Fraction = 0.15
    """Share of the subjects outside test that go to val; at least one subject if there are four or more. 0: no val."""
    seed: Seed | None = None
    """Seed of the division; null: the study's."""
    use_split: bool = False
    """Whether to use the dataset's own `split`: its test is the test of all folds, and the folds rotate val."""
    stratify_by: tuple[Literal["group", "acquisition", "lesion_tercile", "lobe"], ...] = (
        "group",
        "acquisition",
        "lesion_tercile",
        "lobe",
    )
    """What is balanced over the folds, the most important first. Keys that cannot be balanced are left out; folds.tsv
    records the keys used."""

    @model_validator(mode="after")
    def _test_part(self):
        if self.k == 1 and not self.use_split:
            raise ValueError("k 1 leaves no held-out subjects; set k to 2 or more, or use_split: true")
        return self
