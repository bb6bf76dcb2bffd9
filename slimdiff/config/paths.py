"""Where everything of a study lies: the one place that knows the layout under `results/`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyPaths:
    """Paths of one study; Snakemake's rules and the commands share them.

    A wildcard such as `"{fold}"` may stand for any argument, so that the rules use the same methods.
    """

    root: Path

    @classmethod
    def of(cls, results_dir: str, study: str) -> "StudyPaths":
        return cls(Path(results_dir) / study)

    @property
    def phantom(self) -> Path:
        return self.root / "phantom"

    @property
    def participants(self) -> Path:
        return self.root / "participants.tsv"

    def volume(self, participant: str, kind: str) -> Path:
        """`kind` is FLAIR or mask; every participant has both (a control's mask is empty)."""
        return self.root / "volumes" / f"{participant}_{kind}.nii.gz"

    def volume_json(self, participant: str) -> Path:
        return self.root / "volumes" / f"{participant}.json"

    @property
    def store(self) -> Path:
        return self.root / "slices"

    @property
    def folds(self) -> Path:
        return self.root / "folds.tsv"

    def prior(self, fold: int | str) -> Path:
        return self.root / "priors" / f"fold-{fold}.npz"

    def model(self, variant: str, fold: int | str) -> Path:
        return self.root / "models" / variant / f"fold-{fold}"

    def samples(self, variant: str, fold: int | str) -> Path:
        return self.root / "samples" / variant / f"fold-{fold}"

    def samples_stem(self, variant: str, fold: int | str, z_bin: int | str) -> Path:
        label = f"{z_bin:02d}" if isinstance(z_bin, int) else z_bin
        return self.samples(variant, fold) / f"zbin-{label}"

    def metrics(self, variant: str, fold: int | str) -> Path:
        return self.root / "metrics" / variant / f"fold-{fold}"

    @property
    def summary(self) -> Path:
        return self.root / "metrics" / "summary.tsv"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    def export(self, form: str, variant: str, fold: int | str) -> Path:
        """`form` is bids, nnunet, monai or png."""
        return self.root / "export" / form / variant / f"fold-{fold}"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"
