"""Keys of a study that are each valid, but do not fit together."""

import json

from slimdiff.config.base import ConfigError
from slimdiff.config.data import DataConfig
from slimdiff.config.export import MAX_NNUNET_ID
from slimdiff.config.paths import REAL
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.study import Study

MIN_SIDE_PX = 32
"""Smallest slice side that the feature extractors take, in px."""
MAX_BELOW_EPSILON = 0.8
"""Share of T above which the x0 estimate of an epsilon network is dominated by the noise."""


def check_data(data: DataConfig, preprocess: PreprocessConfig) -> None:
    """Raise ConfigError if the source lacks a key that it requires, or a stage requires what the source does not
    have."""
    if data.source in ("bids", "nnunet", "brats") and not data.root:
        raise ConfigError(
            f"data.root: source {data.source} requires the dataset's folder, found null; set it"
        )
    if data.source == "table" and not data.table:
        raise ConfigError("data.table: source table requires the path of a TSV or CSV, found null; set it")
    if data.source == "slices":
        _check_slices(data, preprocess)
    if data.fetch.dataset and data.source != "bids":
        raise ConfigError(
            f"data.fetch.dataset: {data.fetch.dataset} is a BIDS dataset, but data.source is {data.source}; set bids"
        )
    if preprocess.brain.method == "source" and not (
        data.source == "table" or (data.source == "bids" and data.brain_suffix)
    ):
        raise ConfigError(
            "preprocess.brain.method: source, but the source has no brain mask; set data.brain_suffix (bids), add a "
            "column brain_mask (table), or use deepbet"
        )


def _check_slices(data: DataConfig, preprocess: PreprocessConfig) -> None:
    slices = data.slices
    for key, value in (
        ("registration.transform", preprocess.registration.transform),
        ("brain.method", preprocess.brain.method),
    ):
        if slices.height_mm is not None and value != "none":
            raise ConfigError(
                f"preprocess.{key}: {value} requires true lengths, but data.slices.height_mm is a nominal one; set "
                "data.slices.distance_mm, or none here"
            )
    if bool(data.table) == bool(slices.image):
        found = "both" if data.table else "neither"
        raise ConfigError(
            "data.slices: source slices requires patterns (data.root, data.slices.image and mask) or data.table, "
            f"found {found}; set one of them"
        )
    if slices.image and not data.root:
        raise ConfigError(
            "data.root: data.slices.image requires the folder of the pictures, found null; set it"
        )
    for one, other, what in (
        (
            "pixel_mm",
            "field_mm",
            "the size of pixels or of pictures; if it is unknown, a nominal pixel_mm such as 1",
        ),
        (
            "distance_mm",
            "height_mm",
            "the distance of slices; if it is unknown, a nominal height_mm of the brain",
        ),
    ):
        if getattr(slices, one) is None and getattr(slices, other) is None:
            raise ConfigError(f"data.slices: expected {one} or {other}, found neither; set {what}")


def check_study(study: Study) -> None:
    """Raise ConfigError if sections do not fit together."""
    check_data(study.data, study.preprocess)
    depth, by_number = study.preprocess.grid[2], study.slices.height == "slice"
    if by_number and study.preprocess.native:
        raise ConfigError(
            "slices.height: slice requires slices with common numbers, but preprocess.spacing_mm has native slices; "
            "set height to relative or mm"
        )
    if by_number and study.slices.z_range != "auto" and study.slices.z_range[1] >= depth:
        raise ConfigError(
            f"slices.z_range: {list(study.slices.z_range)} is outside the volume: preprocess.grid has "
            f"{depth} slices, so 0 to {depth - 1} are allowed"
        )
    if study.data.source == "phantom":
        check_fold_count(study.folds.k, study.data.phantom.patients, study.data.phantom.controls)
    models = len(study.variants) * study.folds.k
    if study.export.nnunet_first_id + models - 1 > MAX_NNUNET_ID:
        raise ConfigError(
            f"export.nnunet_first_id: {models} datasets from {study.export.nnunet_first_id} on end above "
            f"{MAX_NNUNET_ID}; set it to {MAX_NNUNET_ID - models + 1} or less"
        )
    if REAL in study.variants:
        raise ConfigError(
            "variants.real: this name is reserved for metrics/real, the results without samples; use another name"
        )
    for name in study.variants:
        _check_variant(study.variant(name), name)


def check_fold_count(k: int, patients: int, controls: int) -> None:
    """Raise ConfigError if a fold would have no patient in test, or no subject to train on."""
    if k > patients:
        raise ConfigError(f"folds.k: {k} folds, but only {patients} patients; set k to {patients} or less")
    if patients + controls < 2:
        raise ConfigError(f"folds.k: expected at least 2 subjects, found {patients + controls}")


def check_acquisitions(study: Study, found: set[str]) -> None:
    """Raise ConfigError if a variant has the acquisition as an input, but the participants' do not allow it."""
    listed = ", ".join(sorted(found))
    for name in study.variants:
        part = study.variant(name)
        if not part.model.acquisition:
            continue
        if len(found) < 2 or "n/a" in found:
            raise ConfigError(
                f"variants.{name}: model.acquisition is true, but the participants' acquisitions are {listed}; "
                "it requires an acquisition for every participant, and at least two"
            )
        if part.generation.acquisition not in {"mix", *found}:
            raise ConfigError(
                f"variants.{name}: generation.acquisition is {part.generation.acquisition!r}; expected one "
                f"of mix, {listed}"
            )


def _check_variant(study: Study, name: str) -> None:
    height, width = study.preprocess.grid[1], study.preprocess.grid[0]
    if height % study.model.divisor or width % study.model.divisor:
        raise ConfigError(
            f"preprocess.grid: slices of {width} x {height} px do not fit variant {name!r}: patch "
            f"{study.model.patch} and {len(study.model.widths)} levels require multiples of {study.model.divisor}; the "
            f"next are {_up(width, study.model.divisor)} x {_up(height, study.model.divisor)}"
        )
    if min(height, width) < MIN_SIDE_PX:
        raise ConfigError(
            f"preprocess.grid: slices of {width} x {height} px; the feature extractors require at least "
            f"{MIN_SIDE_PX} px"
        )
    model, training, loss = study.model, study.training, study.diffusion.loss
    pairs = [
        # (required, present, the key that requires, the key that is required)
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
        (
            model.self_conditioning,
            training.self_conditioning > 0,
            "model.self_conditioning",
            "training.self_conditioning",
        ),
        (model.null_token, training.condition_dropout > 0, "model.null_token", "training.condition_dropout"),
    ]
    for required, present, by, key in pairs:
        if required and not present:
            raise ConfigError(
                f"variants.{name}: {by} is {_value(study, by)}, but {key} is {_value(study, key)}; set both or neither"
            )
    if training.accumulate > training.batch_size:
        raise ConfigError(
            f"variants.{name}: training.accumulate is {training.accumulate}, but training.batch_size is "
            f"{training.batch_size}; every part needs at least one slice"
        )
    focal = loss.focal_frequency
    if focal.weight and study.diffusion.prediction == "epsilon" and focal.below > MAX_BELOW_EPSILON:
        raise ConfigError(
            f"variants.{name}: diffusion.loss.focal_frequency.below is {focal.below}, but the x0 estimate of an "
            f"epsilon network is not usable at high noise; set it to {MAX_BELOW_EPSILON} or less"
        )
    if study.diffusion.prediction == "epsilon" and loss.space in ("x0", "v") and loss.min_snr_gamma is None:
        raise ConfigError(
            f"variants.{name}: diffusion.loss.space is {loss.space}, where the error of an epsilon network grows "
            "without bound with the noise; set min_snr_gamma, or set space to epsilon or target"
        )
    generation, timesteps = study.generation, study.diffusion.timesteps
    if generation.guide is not None and generation.guide not in training.snapshots:
        raise ConfigError(
            f"variants.{name}: generation.guide is {generation.guide}, but training.snapshots is "
            f"{list(training.snapshots)}; set guide to one of them"
        )
    late = [step for step in training.snapshots if step > training.steps]
    if late:
        raise ConfigError(
            f"variants.{name}: training.snapshots: step {late[0]} is above training.steps, {training.steps}; remove it"
        )
    if generation.sampler == "ddim_ref" and generation.evaluations > timesteps:
        raise ConfigError(
            f"variants.{name}: generation.evaluations is {generation.evaluations}, but ddim_ref allows at most "
            f"{timesteps} (diffusion.timesteps); lower generation.evaluations"
        )
    levels = max(0, len(loss.wavelet_weights or ()) - 1)
    if height % 2**levels or width % 2**levels:
        raise ConfigError(
            f"variants.{name}: diffusion.loss.wavelet_weights has {levels + 1} weights, which need sides that are "
            f"multiples of {2**levels} px, but slices have {width} x {height} px; give fewer weights"
        )
    if loss.wavelet_weights and loss.lesion_weight_image != 1:
        raise ConfigError(
            f"variants.{name}: diffusion.loss.lesion_weight_image is {loss.lesion_weight_image}, but with "
            "wavelet_weights there are no pixels of the image to weigh; remove one of them"
        )
    patches = loss.focal_frequency.patches
    if loss.focal_frequency.weight and (height % patches or width % patches):
        raise ConfigError(
            f"variants.{name}: diffusion.loss.focal_frequency.patches: slices of {width} x {height} px cannot be cut "
            f"into {patches} x {patches} patches"
        )


def _up(side: int, divisor: int) -> int:
    """The next multiple of divisor."""
    return -(-side // divisor) * divisor


def _value(study: Study, key: str) -> str:
    section, name = key.split(".")
    return json.dumps(getattr(getattr(study, section), name))
