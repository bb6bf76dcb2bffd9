"""A study: one validated object, from the sections that are each a model of their own."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from slimdiff.config.base import Name, Section
from slimdiff.config.data import DataConfig
from slimdiff.config.data_checks import check_data
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.errors import ConfigError, explain
from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.config.export import MAX_NNUNET_ID, ExportConfig
from slimdiff.config.folds import FoldsConfig
from slimdiff.config.generation import GenerationConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.paths import REAL, StudyPaths
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.priors import PriorConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.config.report import ReportConfig
from slimdiff.config.slices import SlicesConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.config.utility import UtilityConfig

MIN_SIDE_PX = 32
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

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths.of(self.results_dir, self.study)

    def cells(self, variant: str | None = None, fold: int | None = None) -> list[tuple[str, int]]:
        """Every variant and fold, or those of one variant, one fold, or both."""
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


def check_study(study: Study) -> None:
    """Raise ConfigError where sections that are each valid do not fit together."""
    check_data(study.data, study.preprocess)
    depth = study.preprocess.grid[2]
    if study.slices.z_range != "auto" and study.slices.z_range[1] >= depth:
        raise ConfigError(
            f"slices.z_range: {list(study.slices.z_range)} lies outside the volume: preprocess.grid has "
            f"{depth} slices, so 0 to {depth - 1} are allowed"
        )
    if study.data.source == "phantom":
        check_fold_count(study.folds.k, study.data.phantom.patients, study.data.phantom.controls)
    cells = len(study.variants) * study.folds.k
    if study.export.nnunet_first_id + cells - 1 > MAX_NNUNET_ID:
        raise ConfigError(
            f"export.nnunet_first_id: {cells} datasets from {study.export.nnunet_first_id} on end above "
            f"{MAX_NNUNET_ID}; at most {MAX_NNUNET_ID - cells + 1} is allowed here"
        )
    if REAL in study.variants:
        raise ConfigError(
            "variants.real: metrics/real is where what needs no samples lies; give it another name"
        )
    for name in study.variants:
        _check_variant(study.variant(name), name)


def check_fold_count(k: int, patients: int, controls: int) -> None:
    """Raise if some fold's test part would have no patient, or no subject would be left to train on."""
    if k > patients:
        raise ConfigError(f"folds.k: {k} folds, but only {patients} patients; at most {patients} are allowed")
    if patients + controls < 2:
        raise ConfigError(f"folds.k: {patients + controls} subjects in all; at least 2 are wanted")


def check_acquisitions(study: Study, known: set[str]) -> None:
    """Raise if a variant tells its network the acquisition, and the participants' do not allow it."""
    listed = ", ".join(sorted(known))
    for name in study.variants:
        part = study.variant(name)
        if not part.model.acquisition:
            continue
        if len(known) < 2 or "n/a" in known:
            raise ConfigError(
                f"variants.{name}: model.acquisition is true, but the participants' acquisitions are {listed}; every "
                "one has to be known, and two at least are wanted"
            )
        if part.generation.acquisition not in {"mix", *known}:
            raise ConfigError(
                f"variants.{name}: generation.acquisition is {part.generation.acquisition!r}; mix, {listed} are allowed"
            )


def _check_variant(study: Study, name: str) -> None:
    height, width = study.preprocess.grid[1], study.preprocess.grid[0]
    if height % study.model.divisor or width % study.model.divisor:
        raise ConfigError(
            f"preprocess.grid: slices of {width} x {height} px do not fit variant {name!r}: patch "
            f"{study.model.patch} and {len(study.model.widths)} levels want multiples of {study.model.divisor}"
        )
    if min(height, width) < MIN_SIDE_PX:
        raise ConfigError(
            f"preprocess.grid: slices of {width} x {height} px; the feature extractors want at least {MIN_SIDE_PX}"
        )
    model, training, loss = study.model, study.training, study.diffusion.loss
    needs = [
        # (wanted, present, the key that wants, the key that is wanted)
        (
            training.self_conditioning > 0,
            model.self_conditioning,
            "training.self_conditioning",
            "model.self_conditioning",
        ),
        (training.condition_dropout > 0, model.null_token, "training.condition_dropout", "model.null_token"),
        (
            study.generation.guidance != 1 and study.generation.guide is None,
            model.null_token,
            "generation.guidance",
            "model.null_token",
        ),
        (
            study.generation.acquisition != "mix",
            model.acquisition,
            "generation.acquisition",
            "model.acquisition",
        ),
        (model.null_token, training.condition_dropout > 0, "model.null_token", "training.condition_dropout"),
    ]
    for wanted, present, by, key in needs:
        if wanted and not present:
            raise ConfigError(
                f"variants.{name}: {by} is {_value(study, by)}, but {key} is {_value(study, key)}; set both or neither"
            )
    if training.accumulate > training.batch_size:
        raise ConfigError(
            f"variants.{name}: training.accumulate is {training.accumulate}, but training.batch_size is "
            f"{training.batch_size}; a part has one slice at least"
        )
    for term in ("focal_frequency", "perceptual"):
        settings = getattr(loss, term)
        if settings.weight and study.diffusion.prediction == "epsilon" and settings.below > 0.8:
            raise ConfigError(
                f"variants.{name}: diffusion.loss.{term}.below is {settings.below}, but the x0 estimate of an epsilon "
                "network is of no use at high noise; at most 0.8"
            )
    if study.diffusion.prediction == "epsilon" and loss.space in ("x0", "v") and loss.min_snr_gamma is None:
        raise ConfigError(
            f"variants.{name}: diffusion.loss.space is {loss.space}, where the error of an epsilon network grows "
            "without bound with the noise; set min_snr_gamma, or take epsilon or target"
        )
    generation, timesteps = study.generation, study.diffusion.timesteps
    if generation.guide is not None and generation.guide not in training.snapshots:
        raise ConfigError(
            f"variants.{name}: generation.guide is {generation.guide}, but training.snapshots is "
            f"{list(training.snapshots)}; name a step that is kept"
        )
    late = [step for step in training.snapshots if step > training.steps]
    if late:
        raise ConfigError(
            f"variants.{name}: training.snapshots: step {late[0]} is never reached, training.steps is {training.steps}"
        )
    if generation.sampler == "ddim_ref" and generation.evaluations > timesteps:
        raise ConfigError(
            f"variants.{name}: generation.evaluations is {generation.evaluations}, but ddim_ref takes its levels from "
            f"diffusion.timesteps {timesteps}"
        )
    patches = loss.focal_frequency.patches
    if loss.focal_frequency.weight and (height % patches or width % patches):
        raise ConfigError(
            f"variants.{name}: diffusion.loss.focal_frequency.patches: slices of {width} x {height} px cannot be cut "
            f"into {patches} x {patches}"
        )


def _value(study: Study, key: str) -> str:
    section, name = key.split(".")
    return json.dumps(getattr(getattr(study, section), name))


def _merge(base: Mapping, overrides: Any) -> dict:
    if not isinstance(overrides, Mapping):
        raise ConfigError(f"variants: {overrides!r} stands where a mapping of keys is wanted")
    merged = dict(base)
    for key, value in overrides.items():
        nested = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
