"""Samples of which a part is given, from a network that was trained to draw the whole pair.

`mask_to_image`: the mask is given, the image is drawn around it. `inpaint`: image and mask are given outside a region
(a real slice without lesion), and a lesion is drawn inside it. Both hold the given part fixed along the chain
(`slimdiff.diffusion.denoiser.Inpainted`); no network is trained for it.

A folder of such samples holds, beside what `slimdiff.generation.samples` says, `known` (float16) and `where` (bool) in
the archives, and in the manifests `mode`, and `source`: what was given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimdiff.generation.folder import ForeignFile, manifest_rows, stem_of, with_lesions
from slimdiff.generation.generate import Generator, Known
from slimdiff.generation.requests import Request, stream_key
from slimdiff.generation.samples import COLUMNS, write_samples

CONDITIONAL_COLUMNS = (*COLUMNS, "mode", "source")
BACKGROUND = -1.0


@dataclass(frozen=True)
class Given:
    """Something that is given, to draw samples around."""

    known: np.ndarray
    """float16 (2, H, W) in [-1, 1], store orientation."""
    where: np.ndarray
    """bool (2, H, W): what of it holds."""
    z_bin: int
    label: int
    source: str
    """Where it is from, for the manifest."""


def given_mask(mask: np.ndarray, z_bin: int, source: str) -> Given:
    """The image is to be drawn to this mask, bool (H, W)."""
    known = np.full((2, *mask.shape), BACKGROUND, np.float16)
    known[1][mask] = 1
    where = np.stack([np.zeros_like(mask), np.ones_like(mask)])
    return Given(known, where, z_bin, int(mask.any()), source)


def given_surroundings(image: np.ndarray, region: np.ndarray, z_bin: int, source: str) -> Given:
    """A lesion is to be drawn inside the region, bool (H, W), of a slice without one, (H, W) in [-1, 1].

    Raises ValueError where the region is empty or leaves nothing outside.
    """
    if not region.any() or region.all():
        raise ValueError(
            f"{source}: the region has {int(region.sum())} of {region.size} px; some inside, some outside"
        )
    known = np.stack([image, np.full_like(image, BACKGROUND)]).astype(np.float16)
    return Given(known, np.stack([~region, ~region]), z_bin, 1, source)


def requests_around(
    generator: Generator, given: Sequence[Given], each: int, attempt: int = 0
) -> tuple[list[Request], Known]:
    """`each` samples around everything that is given, in its order; the replica of a sample is its number there (in a
    folder: within its z-bin).

    attempt: another one has other noise.
    """
    card, config = generator.card, generator.config
    name = card.variant if config.variant_in_key else None
    ending = f"/attempt={attempt}" if attempt else ""
    requests, known, where = [], [], []
    for number, what in enumerate(given):
        if what.known.shape[1:] != card.store_size or not 0 <= what.z_bin < card.n_bins:
            raise ValueError(
                f"{what.source}: {what.known.shape[1:]} px in z-bin {what.z_bin}; the checkpoint draws "
                f"{card.store_size} px in z-bins 0 to {card.n_bins - 1}"
            )
        for index in range(each):
            key = stream_key(config.seed, card.fold, what.z_bin, what.label, number, index, name) + ending
            requests.append(Request(key, what.z_bin, what.label, number, index))
            known.append(what.known)
            where.append(what.where)
    return requests, (np.array(known, np.float16), np.array(where, bool))


def draw_until_lesion(
    generator: Generator, given: Sequence[Given], each: int, attempts: int, progress: str = ""
) -> tuple[list[Request], Known, np.ndarray, np.ndarray]:
    """Draw around everything given; where a lesion was asked for and none came, again from other noise.

    Returns:
        The requests that the samples are of, what was given, images and masks. After the last attempt a sample
        stays as it is.
    """
    requests, known = requests_around(generator, given, each)
    generator.compile_for(len(requests))
    images, masks = generator.draw(requests, progress, known)
    for attempt in range(1, attempts):
        lesion = (masks.astype(np.float32) > generator.config.tau).any(axis=(1, 2))
        asked = np.array([request.label == 1 for request in requests], bool)
        again = np.flatnonzero(asked & ~lesion)
        if not len(again):
            break
        others, _ = requests_around(generator, given, each, attempt)
        drawn = generator.draw(
            [others[place] for place in again], f"attempt {attempt + 1}", tuple(part[again] for part in known)
        )
        images[again], masks[again] = drawn
        for place in again:
            requests[place] = others[place]
    return requests, known, images, masks


def draw_around(
    generator: Generator, given: Sequence[Given], each: int, mode: str, folder: Path, attempts: int = 1
) -> int:
    """Draw `each` samples around everything that is given into a folder that has no samples yet, z-bin by z-bin.

    Returns how many of the samples that should have a lesion have none after the last attempt.
    Raises ForeignFile where the folder has samples.
    """
    lying = sorted(Path(folder).glob("zbin-*"))
    if lying:
        raise ForeignFile(f"{lying[0]}: the folder has samples already; give another one")
    # Everything is looked at before anything is drawn.
    requests_around(generator, given, 0)
    without = 0
    for z_bin in sorted({what.z_bin for what in given}):
        own = [what for what in given if what.z_bin == z_bin]
        requests, known, images, masks = draw_until_lesion(generator, own, each, attempts, f"{mode} {z_bin}")
        rows = with_lesions(manifest_rows(generator, requests, folder), masks, generator.config.tau)
        rows = [{**row, "mode": mode, "source": own[row["replica"]].source} for row in rows]
        without += sum(row["class"] == 1 and row["lesion_px"] == 0 for row in rows)
        more = {"known": known[0], "where": known[1]}
        write_samples(stem_of(folder, z_bin), images, masks, rows, CONDITIONAL_COLUMNS, **more)
    return without
