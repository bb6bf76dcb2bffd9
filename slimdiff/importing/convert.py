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

import slimdiff
from slimdiff.config.base import merged
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.recipes import PUBLISHED
from slimdiff.config.training import TrainingConfig
from slimdiff.importing.lightning import averaged_weights, read_lightning, without_wrappers
from slimdiff.importing.names import from_monai, prior_encoder_from_reference
from slimdiff.model.checkpoint import DataSpec, ModelCard, build_network, put_priors, save_model
from slimdiff.model.prior import GROUPS, TOKEN_WIDTH, WIDTHS

# The published code slices along (right, anterior) axes; the slice store has anterior at the top.
QUARTER_TURNS = 1
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
    config = _resolved(config, config)
    try:
        model, data, sections = published_sections(config, weights)
    except KeyError as error:
        raise ValueError(f"{checkpoint}: configuration: key {error} is missing") from None
    except TypeError as error:
        raise ValueError(f"{checkpoint}: configuration: not readable: {error}") from None
    network = build_network(model.settings(), data)
    if priors is not None:
        if model.prior == "none":
            raise ValueError(
                f"{checkpoint}: the network has no priors, but priors are given; remove --priors"
            )
        priors = np.rot90(priors, -QUARTER_TURNS, axes=(1, 2))
    put_priors(network, priors)
    ours = {name: value.float() for name, value in from_monai(weights).items()}
    if model.prior == "cross_attention":
        encoder = {
            name.removeprefix("_anatomical_encoder."): value
            for name, value in state.items()
            if name.startswith("_anatomical_encoder.")
        }
        ours |= prior_encoder_from_reference(encoder)
    kept = {name: value for name, value in network.state_dict().items() if name == "priors.maps"}
    try:
        network.load_state_dict({**ours, **kept})
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint}: weights do not match the configuration: {str(error)[:400]}"
        ) from None
    transforms = config["data"]["transforms"]
    card = ModelCard(
        model=model.settings(),
        diffusion=sections["diffusion"].model_dump(mode="json"),
        training=sections["training"].model_dump(mode="json"),
        data=data,
        spacing_mm=float(transforms["target_spacing"][0]),
        z_range=tuple(config["data"]["slice_sampling"]["z_range"]),
        study="reference",
        variant=Path(checkpoint).stem,
        fold=0,
        step=int(content.get("global_step", 0)),
        data_hash="unknown",
        precision="float32",
        versions={
            "slimdiff": slimdiff.__version__,
            "pytorch-lightning": str(content.get("pytorch-lightning_version", "unknown")),
        },
    )
    save_model(out, network.state_dict(), card)
    return card


def read_configuration(path: Path) -> Mapping:
    """Read the configuration of the published code from YAML; raises ValueError naming the file."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(config, Mapping):
        raise ValueError(f"{path}: expected a mapping of sections, found {type(config).__name__}")
    return config


def published_sections(config: Mapping, weights: Mapping[str, Any]) -> tuple[ModelConfig, DataSpec, dict]:
    """Our sections for a configuration of the published code; raises ValueError naming an unsupported key."""
    model, conditioning, scheduler = config["model"], config["conditioning"], config["scheduler"]
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
        self_conditioning=bool(config["training"]["self_conditioning"].get("enabled", False)),
        prior=prior,
        null_token="class_embedding.null_embedding" in weights,
        gaussian_components=0,
    )
    n_bins, (first, last) = conditioning["z_bins"], config["data"]["slice_sampling"]["z_range"]
    # In float32 and truncated: the published code computes the slice of its sinusoid in this way.
    shares = (torch.arange(n_bins).float() + 0.5) / n_bins
    centres = (first + shares * (last - first + 1)).long().clamp(0, min(last, conditioning["max_z"]))
    height, width = config["data"]["transforms"]["roi_size"][:2]
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
    data = DataSpec(
        (int(height), int(width)), n_bins, [float(z) for z in centres], quarter_turns=QUARTER_TURNS
    )
    return ours, data, {"diffusion": diffusion, "training": training}


def _resolved(value: Any, root: Mapping) -> Any:
    """Resolve references (`${section.key}`) of the configuration; a reference without target is left unchanged."""
    if isinstance(value, Mapping):
        return {key: _resolved(part, root) for key, part in value.items()}
    if isinstance(value, list):
        return [_resolved(part, root) for part in value]
    if isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        found: Any = root
        for key in match[1].split("."):
            if not isinstance(found, Mapping) or key not in found:
                return value
            found = found[key]
        return value if found == value else _resolved(found, root)
    return value


def _refuse(fits: bool, key: str, found: Any, allowed: str) -> None:
    if not fits:
        raise ValueError(
            f"{key} of the published configuration: expected {allowed}, found {found!r}; others cannot be imported"
        )
