"""Paths of a study's files: the only place that knows the layout under `results/`."""

from dataclasses import dataclass
from pathlib import Path

REAL = "real"
"""Folder below `metrics/` of results that need no samples; reserved, so no variant has this name."""


@dataclass(frozen=True)
class StudyPaths:
    """Paths of one study, for Snakemake's rules and the commands.

    Any argument may be a wildcard such as `"{fold}"`, so that rules use the same methods.
    """

    root: Path
    modality: str | None = "FLAIR"
    """Name of the images in file names (`DataConfig.modality_name`); None: the stage must not read volumes."""

    @classmethod
    def of(cls, results_dir: str, study: str, modality: str | None = "FLAIR") -> "StudyPaths":
        return cls(Path(results_dir) / study, modality)

    @property
    def phantom(self) -> Path:
        return self.root / "phantom"

    @property
    def fetched(self) -> Path:
        """Record that the dataset was fetched and every file is correct."""
        return self.root / "fetched.json"

    @property
    def participants(self) -> Path:
        return self.root / "participants.tsv"

    @property
    def quality(self) -> Path:
        """Measurements, flags and verdict of every participant."""
        return self.root / "quality.tsv"

    @property
    def quality_state(self) -> Path:
        """Folder of measurements, one file per participant; kept if a run stops."""
        return self.root / "quality"

    def volume(self, participant: str, kind: str) -> Path:
        """`kind` is image or mask; every participant has both (a control's mask is empty).

        Raises LookupError in a stage that does not declare the keys of the modality.
        """
        if self.modality is None:
            raise LookupError(
                "a stage that reads volumes must have the keys MODALITY of slimdiff.config.data in NEEDS"
            )
        name = {"image": self.modality, "mask": "mask"}[kind]
        return self.root / "volumes" / f"{participant}_{name}.nii.gz"

    def volume_json(self, participant: str) -> Path:
        return self.root / "volumes" / f"{participant}.json"

    def weights(self, extractor: str) -> Path:
        """Record that the pretrained weights of an extractor were fetched."""
        return self.root / "weights" / f"{extractor}.json"

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

    def utility(self, variant: str, fold: int | str) -> Path:
        return self.metrics(variant, fold) / "utility.tsv"

    def results(self, variant: str, fold: int, utility: bool = True) -> list[Path]:
        """Metric tables of one variant and fold: metrics.tsv, and utility.tsv if it exists.

        utility: whether the study enables it; an earlier configuration may have left one.
        """
        table = self.utility(variant, fold)
        return [self.metrics(variant, fold) / "metrics.tsv"] + [table] * (utility and table.is_file())

    def utility_subjects(self, variant: str, fold: int | str) -> Path:
        """variant: a variant's name, or `real` for what needs no samples."""
        return self.metrics(variant, fold) / "utility_subjects.tsv"

    def segmenter(self, fold: int | str, percent: int | str) -> Path:
        """Trained on real slices of `percent` of the training subjects."""
        return self.metrics(REAL, fold) / f"segmenter-{percent}.safetensors"

    @property
    def summary(self) -> Path:
        return self.root / "metrics" / "summary.tsv"

    @property
    def comparison(self) -> Path:
        return self.root / "metrics" / "comparison.tsv"

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
    def crate(self) -> Path:
        """Metadata of the folder as an RO-Crate, which has this name in every folder."""
        return self.root / "ro-crate-metadata.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"
