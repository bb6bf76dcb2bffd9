"""A study: one validated object made of sections, each a model of its own."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from slimdiff.config.base import (
    WITHOUT_A_STUDY,
    ConfigError,
    Device,
    Folder,
    Name,
    Section,
    Seed,
    Tau,
    explain,
    inherit,
    merged,
)
from slimdiff.config.data import DataConfig
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.config.export import ExportConfig
from slimdiff.config.folds import FoldsConfig
from slimdiff.config.generation import GenerationConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.needs import ALWAYS, EVERYTHING, DeclaredStudy
from slimdiff.config.paths import StudyPaths
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.config.report import ReportConfig
from slimdiff.config.slices import SlicesConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.config.utility import UtilityConfig

VARIANT_SECTIONS = ("model", "diffusion", "training", "generation")


class Study(Section):
    """One study."""

    study: Name = "study"
    """Name of the study: its folder under `results_dir`. Letters, digits and _ . - are allowed."""
    results_dir: Folder = "results"
    """Folder of all outputs, without { } < and >, which Snakemake would read as wildcards; `~` and environment
    variables such as $SCRATCH are replaced."""
    recipe: Literal["default", "published"] = "default"
    """What a key has that the study does not set: its default (docs/learning.md), or with `published` the paper's value
    (arXiv 2602.03372) where that is another one."""
    seed: Seed = WITHOUT_A_STUDY["seed"]
    """Seed of all random numbers. A section's own `seed` overrides it."""
    device: Device = WITHOUT_A_STUDY["device"]
    """Device of training, sampling and segmenters. `auto`: CUDA, else MPS, else CPU, but never the CPU where a GPU was
    allocated (docs/machine.md); the log's first line says what it took. A section's own `device` overrides it; the
    metrics have their own (`evaluation.device`)."""
    tau: Tau = WITHOUT_A_STUDY["tau"]
    """Mask threshold, in [-1, 1]: a pixel above it is lesion. A section's own `tau` overrides it."""
    data: DataConfig = DataConfig()
    quality: QualityConfig = QualityConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    slices: SlicesConfig = SlicesConfig()
    folds: FoldsConfig = FoldsConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    generation: GenerationConfig = GenerationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()
    export: ExportConfig = ExportConfig()
    utility: UtilityConfig = UtilityConfig()
    variants: dict[Name, dict[str, Any]] = Field(default_factory=lambda: {"base": {}}, min_length=1)
    """name: overrides of model, diffusion, training and generation. One model is trained per variant and fold."""

    @model_validator(mode="after")
    def _whole_brain_on_a_template(self):
        # The paper's range of slices fits its own grid; a brain on the template reaches further up.
        if self.preprocess.registration.transform != "none" and "z_range" not in self.slices.model_fields_set:
            self.__dict__["slices"] = self.slices.model_copy(update={"z_range": "auto"})
        return self

    @model_validator(mode="after")
    def _thick_slices_as_they_are(self):
        # Native slices have no common number, and are what a 2-D acquisition consists of.
        if not self.preprocess.native:
            return self
        if "height" not in self.slices.model_fields_set:
            values = self.slices.model_dump(exclude_unset=True)
            try:
                self.__dict__["slices"] = SlicesConfig.model_validate({**values, "height": "relative"})
            except ValidationError as error:
                raise ValueError(explain(error, SlicesConfig, prefix="slices")) from None
        if "two_dimensional" not in self.data.model_fields_set:
            self.__dict__["data"] = self.data.model_copy(update={"two_dimensional": "include"})
        return self

    @model_validator(mode="after")
    def _sections_follow_the_study(self):
        self.__dict__.update(_inherited(self))
        return self

    def only(self, needs: Iterable[str], stage: str) -> DeclaredStudy:
        """The study as one stage sees it: reading a key that `needs` does not declare raises UndeclaredKey."""
        needs = tuple(needs)
        return self if needs == EVERYTHING else DeclaredStudy(self, (*ALWAYS, *needs), stage)

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths.of(self.results_dir, self.study, self.data.modality_name)

    def runs(self, variant: str | None = None, fold: int | None = None) -> list[tuple[str, int]]:
        """Every variant with every fold, or those of one variant, one fold, or both."""
        folds = range(self.folds.k) if fold is None else [fold]
        return [(name, number) for name in ([variant] if variant else self.variants) for number in folds]

    def variant(self, name: str) -> "Study":
        """The study with one variant's overrides."""
        if name not in self.variants:
            raise ConfigError(f"variants: no {name!r}; expected one of {', '.join(self.variants)}")
        overrides = self.variants[name] or {}
        # Without unset keys, so that what the variant leaves open follows the study and its own defaults.
        whole = {
            section: getattr(self, section).model_dump(exclude_unset=True) for section in VARIANT_SECTIONS
        }
        for section, values in overrides.items():
            if section not in VARIANT_SECTIONS:
                raise ConfigError(
                    f"variants.{name}.{section}: a variant can only change {', '.join(VARIANT_SECTIONS)}"
                )
            if not isinstance(values, Mapping):
                raise ConfigError(f"variants: expected a mapping of keys, found {values!r}")
            whole[section] = merged(whole[section], values)
        parts = {}
        for section, values in whole.items():
            kind = type(self).model_fields[section].annotation
            try:
                parts[section] = kind.model_validate_json(json.dumps(values))
            except ValidationError as error:
                raise ConfigError(explain(error, kind, prefix=f"variants.{name}.{section}")) from None
        study = self.model_copy(update=parts)
        return study.model_copy(update=_inherited(study))


def _inherited(study: Study) -> dict[str, Section]:
    """The sections of a study in which a key follows the study, with the study's values."""
    values = {"seed": study.seed, "device": study.device, "tau": study.tau, "title": study.study}
    sections = {name: part for name, part in study if isinstance(part, Section)}
    followed = {name: inherit(part, values) for name, part in sections.items()}
    return {name: part for name, part in followed.items() if part is not sections[name]}
