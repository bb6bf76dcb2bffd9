"""Convert a checkpoint of the published code (PyPI slim-diff 1.0.0, Lightning) to a slimdiff checkpoint.

Supported is its MONAI U-Net with sinusoidal embedding of class and z-bin, with or without self-conditioning, null
token and anatomical prior. Unsupported settings raise an error that names the key.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

import slimdiff
from slimdiff.config.base import ConfigError, merged
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.loading import MAX_VALUES
from slimdiff.config.model import ModelConfig
from slimdiff.config.recipes import PUBLISHED
from slimdiff.config.training import TrainingConfig
from slimdiff.files import write_text
from slimdiff.importing.lightning import averaged_weights, read_lightning, without_wrappers
from slimdiff.importing.names import from_monai, prior_encoder_from_reference
from slimdiff.model.checkpoint import (
    MOST_PX,
    MOST_TIMESTEPS,
    DataSpec,
    ModelCard,
    network_of,
    put_priors,
    save_model,
)
from slimdiff.model.prior import GROUPS, TOKEN_WIDTH, WIDTHS
from slimdiff.report.model_card import imported_card, imported_card_path

# The published code slices along (right, anterior) axes; the slice store has anterior at the top.
QUARTER_TURNS = 1
MOST_BINS, MOST_MM = 1000, 100
PREDICTIONS = {"sample": "x0", "epsilon": "epsilon", "v_prediction": "v"}


def import_reference(
    checkpoint: Path,
    out: Path,
    config: Mapping | None = None,
    priors: np.ndarray | None = None,
    raw: bool = False,
) -> ModelCard:
    """Convert the published `checkpoint` to `out` (model.safetensors) and return the model card.

    Args:
        checkpoint: a Lightning .ckpt; nothing in it is executed.
        out: output file.
        config: configuration of the published code; required if the checkpoint does not contain it.
        priors: bool (n_bins, H, W) in the slice store's orientation, for a network with anatomical priors.
        raw: use the last weights, also where there are averaged (EMA) ones.
    Raises:
        FileNotFoundError, ValueError: naming the file and what cannot be converted.
    """
    content = read_lightning(checkpoint)
    config = config or content.get("hyper_parameters")
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{checkpoint}: no configuration found; pass the published code's YAML with --config"
        )
    state = without_wrappers(content["state_dict"], checkpoint)
    last = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    averaged = averaged_weights(content)
    if averaged is not None:
        bare = without_wrappers(averaged, checkpoint)
        averaged = {name.removeprefix("model."): value for name, value in bare.items()}
    if averaged is None and not raw:
        raise ValueError(f"{checkpoint}: no averaged (EMA) weights found; use --raw for the last weights")
    weights = last if raw or averaged is None else {**last, **averaged}
    try:
        settings = Settings(resolved(config))
        model, data, sections = published_sections(settings, weights)
        transforms, sampling = settings.at("data.transforms"), settings.at("data.slice_sampling")
        spacing_mm, z_range = float(transforms["target_spacing"][0]), tuple(sampling["z_range"])
        _refuse(0 < spacing_mm < MOST_MM, "data.transforms.target_spacing", spacing_mm, f"0 to {MOST_MM} mm")
        step = int(content.get("global_step", 0))
        ours = from_monai(weights)
        if model.prior == "cross_attention":
            encoder = {
                name.removeprefix("_anatomical_encoder."): value
                for name, value in state.items()
                if name.startswith("_anatomical_encoder.")
            }
            ours |= prior_encoder_from_reference(encoder)
        shapes = {name: tuple(value.shape) for name, value in ours.items()}
    except ConfigError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise ValueError(
            f"{checkpoint}: configuration: {key}: {problem['msg']}, found {problem['input']!r}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    except (TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{checkpoint}: configuration: not readable: {error}") from None
    if model.prior != "none":
        shapes["priors.maps"] = (data.n_bins, *data.size)
    try:
        network = network_of(model.settings(), data, shapes)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: weights do not match the configuration: {error}") from None
    if priors is not None:
        if model.prior == "none":
            raise ValueError(
                f"{checkpoint}: the network has no priors, but priors are given; remove --priors"
            )
        priors = np.rot90(priors, -QUARTER_TURNS, axes=(1, 2))
    put_priors(network, priors)
    ours = {name: value.float() for name, value in ours.items()}
    bad = [name for name, value in ours.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"{checkpoint}: weight {bad[0]} has NaN or infinite values; convert another checkpoint"
        )
    kept = {name: value for name, value in network.state_dict().items() if name == "priors.maps"}
    network.load_state_dict({**ours, **kept})
    card = ModelCard(
        model=model.settings(),
        diffusion=sections["diffusion"].model_dump(mode="json"),
        training=sections["training"].model_dump(mode="json"),
        data=data,
        spacing_mm=spacing_mm,
        z_range=z_range,
        study="reference",
        variant=Path(checkpoint).stem,
        fold=0,
        step=step,
        data_hash="unknown",
        precision="float32",
        versions={
            "slimdiff": slimdiff.__version__,
            "pytorch-lightning": str(content.get("pytorch-lightning_version", "unknown")),
        },
    )
    save_model(out, network.state_dict(), card)
    write_text(imported_card_path(Path(out)), imported_card(Path(out)))
    return card


class Settings(dict):
    """A mapping of the published configuration; a key that it lacks is named with all keys above it."""

    def __init__(self, values: Mapping, path: str = ""):
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise ConfigError(f"configuration: key {self._named(key)} is missing")

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return Settings(value, self._named(key)) if isinstance(value, Mapping) else value

    def at(self, path: str) -> "Settings":
        """The mapping at a dotted path; raises ConfigError if there is none."""
        found: Any = self
        for key in path.split("."):
            found = found[key]
            if not isinstance(found, Settings):
                raise ConfigError(f"configuration: {path}: expected a mapping of keys, found {found!r}")
        return found

    def _named(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else str(key)


def published_sections(config: Settings, weights: Mapping[str, Any]) -> tuple[ModelConfig, DataSpec, dict]:
    """Our sections for a configuration of the published code; raises ValueError naming an unsupported key."""
    model, conditioning, scheduler = (config.at(name) for name in ("model", "conditioning", "scheduler"))
    _refuse(model.get("type") == "DiffusionModelUNet", "model.type", model.get("type"), "DiffusionModelUNet")
    _refuse(conditioning.get("use_sinusoidal"), "conditioning.use_sinusoidal", False, "true")
    _refuse(not model.get("resblock_updown"), "model.resblock_updown", True, "false")
    _refuse(scheduler["schedule"] == "cosine", "scheduler.schedule", scheduler["schedule"], "cosine")
    kind = scheduler["prediction_type"]
    _refuse(kind in PREDICTIONS, "scheduler.prediction_type", kind, ", ".join(PREDICTIONS))
    prior = "none"
    if model.get("anatomical_conditioning"):
        prior = model.get("anatomical_conditioning_method", "concat")
    if prior == "cross_attention":
        encoder = model.get("anatomical_encoder") or {}
        elsewhere = model.get("anatomical_encoder_config")
        _refuse(
            not elsewhere,
            "model.anatomical_encoder_config",
            elsewhere,
            "an encoder described in the configuration itself",
        )
        wanted = (TOKEN_WIDTH, list(WIDTHS), 8, "sinusoidal", GROUPS, "legacy")
        found = (
            model.get("cross_attention_dim"),
            list(encoder.get("hidden_dims", WIDTHS)),
            encoder.get("downsample_factor", 8),
            encoder.get("positional_encoding", "sinusoidal"),
            encoder.get("norm_num_groups", 8),
            encoder.get("version", "legacy"),
        )
        _refuse(found == wanted, "model.anatomical_encoder", found, str(wanted))
    ours = ModelConfig(
        channels=tuple(model["channels"]),
        res_blocks=model["num_res_blocks"],
        attention=tuple(model["attention_levels"]),
        head_channels=model["num_head_channels"],
        norm_groups=model["norm_num_groups"],
        self_conditioning=bool(config.at("training.self_conditioning")["enabled"]),
        prior=prior,
        null_token="class_embedding.null_embedding" in weights,
        gaussian_components=0,
    )
    n_bins, (first, last) = conditioning["z_bins"], config.at("data.slice_sampling")["z_range"]
    size = [int(side) for side in config.at("data.transforms")["roi_size"][:2]]
    for key, number, most in (
        ("conditioning.z_bins", n_bins, MOST_BINS),
        ("data.transforms.roi_size", max(size), MOST_PX),
        ("scheduler.num_train_timesteps", scheduler["num_train_timesteps"], MOST_TIMESTEPS),
    ):
        _refuse(isinstance(number, int) and 1 <= number <= most, key, number, f"1 to {most}")
    # In float32 and truncated: the published code computes the slice of its sinusoid in this way.
    shares = (torch.arange(n_bins).float() + 0.5) / n_bins
    centres = (first + shares * (last - first + 1)).long().clamp(0, min(last, conditioning["max_z"]))
    p = float((config.get("loss", {}).get("lp_norm") or {}).get("p", 2.0))
    own = {
        "timesteps": scheduler["num_train_timesteps"],
        "prediction": PREDICTIONS[kind],
        "loss": {"p_image": p, "p_mask": p},
    }
    diffusion = DiffusionConfig.model_validate(merged(PUBLISHED["diffusion"], own))
    training = TrainingConfig.model_validate(
        {**PUBLISHED["training"], "self_conditioning": 0.5 if ours.self_conditioning else 0.0}
    )
    data = DataSpec((size[0], size[1]), n_bins, [float(z) for z in centres], quarter_turns=QUARTER_TURNS)
    return ours, data, {"diffusion": diffusion, "training": training}


def resolved(config: Mapping) -> dict[str, Any]:
    """The configuration with its references (`${section.key}`) written out; one without target is left unchanged.

    Raises ConfigError if it then has too many values, or a reference contains itself.
    """
    written = 0

    def write_out(value: Any) -> Any:
        nonlocal written
        written += 1
        if written > MAX_VALUES:
            raise ConfigError(
                f"configuration: expected at most {MAX_VALUES} values with references, found more"
            )
        if isinstance(value, Mapping):
            return {key: write_out(part) for key, part in value.items()}
        if isinstance(value, list):
            return [write_out(part) for part in value]
        if isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
            found: Any = config
            for key in match[1].split("."):
                if not isinstance(found, Mapping) or key not in found:
                    return value
                found = found[key]
            return value if found == value else write_out(found)
        return value

    try:
        return write_out(config)
    except RecursionError:
        raise ConfigError("configuration: a reference (${...}) contains itself; write the values") from None


def _refuse(fits: bool, key: str, found: Any, allowed: str) -> None:
    if not fits:
        raise ValueError(
            f"{key} of the published configuration: expected {allowed}, found {found!r}; others cannot be imported"
        )
