"""A study: one validated object, from the sections that are each a model of their own."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from slimdiff.config.base import ConfigError, Name, Section, explain
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
from slimdiff.config.priors import PriorConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.config.report import ReportConfig
from slimdiff.config.slices import SlicesConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.config.utility import UtilityConfig

VARIANT_SECTIONS = ("model", "diffusion", "training", "generation")


class Study(Section):
    """One study. Every section has the paper's values as defaults."""

    study: Name = "study"
    """Name of the study: its folder under `results_dir`."""
    results_dir: Annotated[str, Field(pattern=r"^[^{}]+$")] = "results"
    """Folder of all outputs; no braces, which the engine would read as wildcards."""
    data: DataConfig = DataConfig()
    quality: QualityConfig = QualityConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    slices: SlicesConfig = SlicesConfig()
    folds: FoldsConfig = FoldsConfig()
    priors: PriorConfig = PriorConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    generation: GenerationConfig = GenerationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()
    export: ExportConfig = ExportConfig()
    utility: UtilityConfig = UtilityConfig()
    variants: dict[Name, dict[str, Any]] = Field(default_factory=lambda: {"base": {}}, min_length=1)
    """name: overrides of model, diffusion, training and generation. One model is trained a variant and fold."""

    @model_validator(mode="after")
    def _whole_brain_on_a_template(self):
        # The paper's range of slices fits its own grid; a brain that stands on the template reaches further up.
        if self.preprocess.registration.transform == "none" or "z_range" in self.slices.model_fields_set:
            return self
        return self.model_copy(update={"slices": self.slices.model_copy(update={"z_range": "auto"})})

    def only(self, needs: Iterable[str], stage: str) -> DeclaredStudy:
        """The study as one stage may see it: reading a key that `needs` does not declare raises UndeclaredKey."""
        needs = tuple(needs)
        return self if needs == EVERYTHING else DeclaredStudy(self, (*ALWAYS, *needs), stage)

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths.of(self.results_dir, self.study)

    def runs(self, variant: str | None = None, fold: int | None = None) -> list[tuple[str, int]]:
        """Every variant with every fold, or those of one variant, one fold, or both."""
        folds = range(self.folds.k) if fold is None else [fold]
        return [(name, number) for name in ([variant] if variant else self.variants) for number in folds]

    def variant(self, name: str) -> "Study":
        """The study with one variant's overrides in place."""
        if name not in self.variants:
            raise ConfigError(f"variants: no {name!r}; there are {', '.join(self.variants)}")
        overrides = self.variants[name] or {}
        merged = {section: getattr(self, section).model_dump() for section in VARIANT_SECTIONS}
        for section, values in overrides.items():
            if section not in VARIANT_SECTIONS:
                raise ConfigError(
                    f"variants.{name}.{section}: a variant may change {', '.join(VARIANT_SECTIONS)} only"
                )
            merged[section] = _merge(merged[section], values)
        parts = {}
        for section, values in merged.items():
            kind = type(self).model_fields[section].annotation
            try:
                parts[section] = kind.model_validate_json(json.dumps(values))
            except ValidationError as error:
                raise ConfigError(explain(error, kind, prefix=f"variants.{name}.{section}")) from None
        return self.model_copy(update=parts)


def _merge(base: Mapping, overrides: Any) -> dict:
    if not isinstance(overrides, Mapping):
        raise ConfigError(f"variants: {overrides!r} stands where a mapping of keys is wanted")
    merged = dict(base)
    for key, value in overrides.items():
        nested = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
