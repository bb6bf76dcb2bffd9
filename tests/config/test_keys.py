"""Every key has a use: a shipped study sets it, or KEPT gives its purpose. Old keys name their replacement."""

from pathlib import Path

import pytest
import yaml

from slimdiff.config import ConfigError, Study, study_from_mapping
from slimdiff.config.base import OLD_KEYS, Section

ROOT = Path(__file__).resolve().parents[2]

KEPT = {
    "the paper's values, by `recipe: published`": ["training.optimiser"],
    "the time of the metrics": ["evaluation.copies"],
    "the user's files": [
        *("results_dir", "data.image_suffix", "data.mask_suffix", "data.entities", "data.mask_root"),
        "data.modality",
        *("data.brain_suffix", "data.fetch.base_url", "generation.counts"),
    ],
    "the user's masks, participants and their protocols": [
        *("data.lesion_labels", "data.mask_threshold", "data.empty_mask", "data.mask_grid"),
        *("data.two_dimensional", "data.exclude"),
        *("data.slices.field_mm", "data.slices.distance_mm", "data.slices.orientation"),
        *("data.slices.gaps", "data.slices.missing_mask"),
        *("data.entities_may_drop", "data.several_masks", "data.patients_without_mask"),
        *(
            "preprocess.harmonise",
            "folds.stratify_by",
            "training.augmentation.flip",
            "generation.acquisition",
        ),
        *("export.skull_stripped",),
    ],
    "an error message tells the user to change it": [
        *("quality.policy", "quality.max_excluded", "quality.accept", "quality.max_spacing_mm"),
        *("quality.max_lesion_outside", "preprocess.brain.dilate_mm", "preprocess.percentiles"),
        *("slices.min_tissue", "training.lesion_share", "training.accumulate"),
        "diffusion.loss.focal_frequency.below",
    ],
    "seeds, devices, precision and memory of the user's machine": [
        *("seed", "device", "folds.seed", "generation.seed", "generation.variant_in_key", "evaluation.seed"),
        *("utility.seed", "training.device", "generation.device", "evaluation.device", "utility.device"),
        *("generation.precision", "generation.batch_size", "training.compile", "generation.compile"),
    ],
    "mask thresholds": ["tau", "generation.tau", "evaluation.tau", "export.tau"],
    "what is logged, drawn and exported, and in which form": [
        *("training.log_every", "training.wandb_project", "report.dpi"),
        *(
            "generation.replicas",
            "generation.binary",
            "export.formats",
            "export.without_suspects",
            "export.without_outliers",
        ),
        "export.nnunet_first_id",
    ],
    "cost against precision of metrics: benchmarks/metrics/power.py sets them": [
        "evaluation.lpips_pairs",
    ],
    "measured: docs/sampling.md (benchmarks/quality/sampler_sweep.py, autoguidance.py)": [
        *("generation.guidance", "generation.guidance_interval", "generation.guide"),
    ],
    "measured: docs/learning.md, docs/sampling.md; `recipe: published` sets or disables them": [
        "training.rate_decay",
        *("diffusion.loss.wavelet_weights", "diffusion.loss.min_snr_floor"),
        *(
            "diffusion.gaussian_above",
            "generation.spacing",
            "generation.calibrate_masks",
            "generation.background",
        ),
    ],
    "settings of the published code's networks and loss modes, which are imported or reproduced": [
        # slimdiff/importing; slimdiff.key_reference.MODES and tests/training/test_published_loss_modes.py.
        *("diffusion.timesteps", "diffusion.schedule", "model.null_token", "training.condition_dropout"),
        *("diffusion.loss.space", "diffusion.loss.lesion_weight_image", "diffusion.loss.uncertainty"),
        "diffusion.loss.perceptual.weight",
    ],
    "a model of the user to start from, and skulls: docs/pretraining.md": [
        *("training.init", "training.init_sha256", "training.init_missing"),
    ],
    "early stopping, selection of weights and the mix of the utility test: choices of a study, off by default": [
        *("training.validation.patience", "training.validation.lowest_ratio", "training.validation.select"),
        *("training.further_ema_decays", "training.validation.evaluations", "utility.synthetic_per_real"),
    ],
}
"""reason: keys that no shipped study sets."""


def keys_of(model: type[Section], prefix: str = "") -> list[str]:
    """Dotted names of all keys of a section and of the sections in it."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Section)
        found += keys_of(kind, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return found


def keys_in(values: dict, prefix: str = "") -> set[str]:
    """Dotted names of all keys that a mapping sets, at every level."""
    found = set()
    for key, value in values.items():
        found.add(f"{prefix}{key}")
        if isinstance(value, dict):
            found |= keys_in(value, f"{prefix}{key}.")
    return found


def keys_of_shipped_studies() -> set[str]:
    found = set()
    for path in sorted((ROOT / "config").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        found |= keys_in(values).union(*map(keys_in, values.get("variants", {}).values()))
    return found


def test_every_key_is_set_in_a_shipped_study_or_kept_for_a_reason():
    shipped, kept = keys_of_shipped_studies(), [key for keys in KEPT.values() for key in keys]
    without = [key for key in keys_of(Study) if key not in shipped and key not in kept]
    assert without == [], "make each a constant in the code that uses it, or say in KEPT what it is for"


def test_kept_keys_exist_and_no_shipped_study_sets_them():
    kept = [key for keys in KEPT.values() for key in keys]
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(keys_of(Study)) - keys_of_shipped_studies()


def nested(key: str, value) -> dict:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_is_refused_with_its_replacement(key):
    assert key not in keys_of(Study)
    with pytest.raises(ConfigError) as caught:
        study_from_mapping(nested(key, 1))
    assert str(caught.value) == f"config: {key}: this key no longer exists: {OLD_KEYS[key]}"


def test_an_old_key_of_a_variant_is_refused():
    with pytest.raises(
        ConfigError, match=r"variants\.b\.training\.weight_decay: this key no longer exists: .*1e-4"
    ):
        study_from_mapping({"variants": {"b": {"training": {"weight_decay": 0}}}})


def test_messages_of_old_keys_give_the_constants_of_the_code():
    """A message must give the value that the code has."""
    from slimdiff.data.fetch import dataset, download
    from slimdiff.data.slices import BACKGROUND_LEVEL
    from slimdiff.data.volumes import bias_field, brain, registration
    from slimdiff.evaluation.axes import image, mask
    from slimdiff.evaluation.metrics import kid
    from slimdiff.report.figures import COLUMNS_PER_BIN, NEAREST_PAIRS
    from slimdiff.training import augment, objective, optimiser, validation

    for key, number in {
        "data.fetch.connections": dataset.CONNECTIONS,
        "data.fetch.attempts": download.ATTEMPTS,
        "data.fetch.wait_s": download.WAIT_S,
        "data.fetch.timeout_s": download.TIMEOUT_S,
        "preprocess.bias_field.shrink": bias_field.SHRINK,
        "preprocess.brain.threshold": brain.THRESHOLD,
        "preprocess.registration.sampling": registration.SAMPLING,
        "slices.background_level": BACKGROUND_LEVEL,
        "diffusion.loss.perceptual.below": objective.PERCEPTUAL_BELOW,
        "training.gradient_clip": optimiser.GRADIENT_CLIP,
        "training.augmentation.max_rotation_deg": augment.EXTENTS.rotation_deg,
        "training.augmentation.max_scale": augment.EXTENTS.scale,
        "training.augmentation.max_shift_mm": augment.EXTENTS.shift_mm,
        "training.augmentation.max_log_gamma": augment.EXTENTS.log_gamma,
        "training.augmentation.max_bias": augment.EXTENTS.bias,
        "training.validation.slices": validation.VALIDATION_SLICES,
        "evaluation.subsets": kid.SUBSETS,
        "evaluation.bootstrap_slow": image.SLOW_BOOTSTRAP,
        "evaluation.permutations": mask.PERMUTATIONS,
        "report.columns_per_bin": COLUMNS_PER_BIN,
        "report.nearest_pairs": NEAREST_PAIRS,
    }.items():
        assert f"fixed at {number:g}" in OLD_KEYS[key] or f"fixed at {number}" in OLD_KEYS[key], key
    assert ", ".join(map(str, bias_field.ITERATIONS)) in OLD_KEYS["preprocess.bias_field.iterations"]
    assert "1e-6" in OLD_KEYS["training.final_learning_rate"] and optimiser.FINAL_LEARNING_RATE == 1e-6
    assert "1e-4" in OLD_KEYS["training.weight_decay"] and optimiser.WEIGHT_DECAY == 1e-4
