"""Keys of `data` and `preprocess` that are each valid and do not fit together."""

import json

from slimdiff.config.base import ConfigError
from slimdiff.config.data import DataConfig
from slimdiff.config.export import MAX_NNUNET_ID
from slimdiff.config.paths import REAL
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.study import Study


def check_data(data: DataConfig, preprocess: PreprocessConfig) -> None:
    """Raise ConfigError where the source lacks what it needs, or a stage wants what the source cannot bring."""
    if data.source in ("bids", "nnunet", "brats") and not data.root:
        raise ConfigError(f"data.root: source {data.source} needs the dataset's folder")
    if data.source == "table" and not data.table:
        raise ConfigError("data.table: source table needs the path of a TSV or CSV")
    if data.fetch.dataset and data.source != "bids":
        raise ConfigError(
            f"data.fetch.dataset: {data.fetch.dataset} is a BIDS dataset, but data.source is {data.source}; set bids"
        )
    if preprocess.brain.method == "source" and not (
        data.source == "table" or (data.source == "bids" and data.brain_suffix)
    ):
        raise ConfigError(
            "preprocess.brain.method: source, but the source brings no brain mask; give data.brain_suffix (bids) or a "
            "column brain_mask (table), or take deepbet"
        )


MIN_SIDE_PX = 32


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
