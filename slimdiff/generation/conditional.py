"""Samples of which a part is given, from a network that was trained to draw the whole pair.

`mask_to_image`: the mask is given, the image is drawn for it. `inpaint`: image and mask are given outside a region (a
real slice without lesion), and a lesion is drawn inside it. Both keep the given part fixed along the chain
(`slimdiff.diffusion.denoiser.Inpainted`); no network is trained for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.generation.folder import redraw_without_lesion
from slimdiff.generation.generator import FixedRegion, Generator
from slimdiff.generation.requests import Request, stream_key
from slimdiff.generation.samples import bin_name
from slimdiff.model.checkpoint import ModelCard

BACKGROUND = -1.0


@dataclass(frozen=True)
class ConditioningInput:
    """The given part of a pair."""

    values: np.ndarray
    """float16 (2, H, W) in [-1, 1], store orientation."""
    where: np.ndarray
    """bool (2, H, W): where the values are fixed."""
    z_bin: int
    label: int
    source: str
    """Where it is from, for the manifest."""


def fixed_mask(mask: np.ndarray, z_bin: int, source: str) -> ConditioningInput:
    """An image is to be drawn for this mask, bool (H, W)."""
    values = np.full((2, *mask.shape), BACKGROUND, np.float16)
    values[1][mask] = 1
    where = np.stack([np.zeros_like(mask), np.ones_like(mask)])
    return ConditioningInput(values, where, z_bin, int(mask.any()), source)


def fixed_surroundings(image: np.ndarray, region: np.ndarray, z_bin: int, source: str) -> ConditioningInput:
    """A lesion is to be drawn inside the region, bool (H, W), of a slice without one, (H, W) in [-1, 1].

    Raises ValueError where the region is empty or leaves nothing outside.
    """
    if not region.any() or region.all():
        raise ValueError(
            f"{source}: expected a region with pixels inside and outside, found {int(region.sum())} of {region.size} px"
        )
    values = np.stack([image, np.full_like(image, BACKGROUND)]).astype(np.float16)
    return ConditioningInput(values, np.stack([~region, ~region]), z_bin, 1, source)


def conditional_requests(
    card: ModelCard,
    config: GenerationConfig,
    inputs: Sequence[ConditioningInput],
    each: int,
    mode: str | None = None,
) -> tuple[list[Request], FixedRegion]:
    """`each` samples for every input, in its order; the replica of a sample is the number of its input.

    Raises ValueError naming an input that does not fit the checkpoint.
    """
    name = card.variant if config.variant_in_key else None
    requests, values, where = [], [], []
    for number, part in enumerate(inputs):
        if part.values.shape[1:] != card.store_size or not 0 <= part.z_bin < card.n_bins:
            raise ValueError(
                f"{part.source}: {part.values.shape[1:]} px in z-bin {part.z_bin}; expected {card.store_size} px in "
                f"z-bins 0 to {card.n_bins - 1} (those of the checkpoint)"
            )
        for index in range(each):
            key = stream_key(config.seed, card.fold, part.z_bin, part.label, number, index, name)
            requests.append(Request(key, part.z_bin, part.label, number, index, mode, part.source))
            values.append(part.values)
            where.append(part.where)
    return requests, (np.array(values, np.float16), np.array(where, bool))


def conditional_requests_of_bins(
    card: ModelCard, config: GenerationConfig, inputs: Sequence[ConditioningInput], each: int, mode: str
) -> tuple[dict[str, list[Request]], dict[str, FixedRegion]]:
    """`conditional_requests` of every z-bin by the name of its files; within it the replica is the input's number."""
    requests, fixed = {}, {}
    for number in sorted({part.z_bin for part in inputs}):
        of_bin = [part for part in inputs if part.z_bin == number]
        name = bin_name(number)
        requests[name], fixed[name] = conditional_requests(card, config, of_bin, each, mode)
    return requests, fixed


def draw_until_lesion(
    generator: Generator, inputs: Sequence[ConditioningInput], each: int, attempts: int, progress: str = ""
) -> tuple[list[Request], FixedRegion, np.ndarray, np.ndarray]:
    """Draw for all inputs; a sample that should have a lesion and has none is drawn again from other noise.

    Returns the requests that the samples are of, the fixed part, images and masks. After the last attempt a sample
    stays as it is.
    """
    requests, fixed = conditional_requests(generator.card, generator.config, inputs, each)
    images, masks = generator.draw(requests, progress, fixed)
    requests = redraw_without_lesion(generator, requests, fixed, images, masks, attempts)
    return requests, fixed, images, masks
