"""Rename the weights of a MONAI `DiffusionModelUNet` (1.6) to the names of our shared network.

The published code replaces MONAI's class embedding by its own `class_embedding.*` (class, z-bin and sinusoid) and adds
an encoder of anatomical priors.
"""

import re

import torch
from torch import Tensor

_RESIDUAL = {
    "norm1": "norm1",
    "conv1.conv": "conv1",
    "time_emb_proj": "embed",
    "norm2": "norm2",
    "conv2.conv": "conv2",
    "skip_connection.conv": "skip",
}
_HEADS = {"to_q": "query", "to_k": "key", "to_v": "value", "out_proj": "out"}
_ATTENTION = {
    "norm": "norm",
    **{f"attn.{theirs}": f"attend.{ours}" for theirs, ours in _HEADS.items()},
    "proj_in.conv": "project_in",
    **{f"transformer_blocks.0.attn1.{theirs}": f"attend.{ours}" for theirs, ours in _HEADS.items()},
    **{f"transformer_blocks.0.attn2.{theirs}": f"cross.{ours}" for theirs, ours in _HEADS.items()},
    **{f"transformer_blocks.0.norm{i + 1}": f"norms.{i}" for i in range(3)},
    "transformer_blocks.0.ff.linear1": "feed_forward_in",
    "transformer_blocks.0.ff.linear2": "feed_forward_out",
    "proj_out.conv": "project_out",
}
_WHOLE = {
    "conv_in.conv": "trunk.encoder.stem",
    "time_embed": "time",
    "out.0": "trunk.decoder.norm",
    "out.2.conv": "trunk.decoder.head",
    "class_embedding.pathology_embedding": "condition.classes",
    "class_embedding.z_encoder.bin_embedding": "condition.bins",
    "class_embedding.z_encoder.combine": "condition.position",
    "class_embedding.combine": "condition.merge",
}
_SIDES = {"down": "trunk.encoder", "up": "trunk.decoder"}
_MIDDLE = {"resnet_1": "before", "attention": "attention", "resnet_2": "after.0"}
# Fixed tables; our network computes them.
_COMPUTED = ("class_embedding.z_encoder.sinusoidal.pe",)


def our_name(name: str) -> str | None:
    """Our name of MONAI's tensor `name`; None if our network has no such tensor."""
    stem, _, kind = name.rpartition(".")
    for theirs, ours in _WHOLE.items():
        if stem == theirs or (theirs == "time_embed" and stem.startswith("time_embed.")):
            return f"{ours}{stem[len(theirs) :]}.{kind}"
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", stem):
        side, level, what, index, part = match.groups()
        parts, kinds = (_RESIDUAL, "blocks") if what == "resnets" else (_ATTENTION, "attentions")
        return (
            f"{_SIDES[side]}.levels.{level}.{kinds}.{index}.{parts[part]}.{kind}" if part in parts else None
        )
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsampler\.op\.conv", stem):
        return f"trunk.encoder.levels.{match[1]}.resample.{kind}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsampler\.postconv\.conv", stem):
        return f"trunk.decoder.levels.{match[1]}.resample.conv.{kind}"
    if match := re.fullmatch(r"middle_block\.(resnet_1|attention|resnet_2)\.(.+)", stem):
        parts = _ATTENTION if match[1] == "attention" else _RESIDUAL
        return f"trunk.middle.{_MIDDLE[match[1]]}.{parts[match[2]]}.{kind}" if match[2] in parts else None
    return None


def from_monai(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our network's weights from MONAI's; raises ValueError naming the tensors without counterpart."""
    renamed, unknown = {}, []
    for name, value in weights.items():
        if name in _COMPUTED:
            continue
        if name == "class_embedding.null_embedding":
            renamed["condition.null"] = value.flatten()
            continue
        ours = our_name(name)
        if ours is None:
            unknown.append(name)
        else:
            renamed[ours] = value
    if unknown:
        raise ValueError(
            f"{len(unknown)} weights have no counterpart in a shared network: {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}"
        )
    if "condition.position.weight" in renamed:
        renamed["condition.position.weight"] = _sinusoid_columns(renamed["condition.position.weight"])
    return renamed


def _sinusoid_columns(weight: Tensor) -> Tensor:
    """Reorder the sinusoid's columns from alternating sines and cosines to cosines first."""
    width = weight.shape[1] // 2
    learned, waves = weight[:, :width], weight[:, width:]
    return torch.cat([learned, waves[:, 1::2], waves[:, 0::2]], dim=1)


def prior_encoder_from_reference(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our prior encoder's weights from the published ones; fixed positions are computed."""
    return {
        f"prior_encoder.{name.replace('backbone.', 'layers.').replace('proj.', 'project.')}": value
        for name, value in weights.items()
        if not name.startswith("pos_encoding.")
    }
