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


def requests_around(generator: Generator, given: Sequence[Given], each: int) -> tuple[list[Request], Known]:
    """`each` samples around everything that is given, in its order; the replica of a sample is its number there."""
    card, config = generator.card, generator.config
    name = card.variant if config.variant_in_key else None
    requests, known, where = [], [], []
    for number, what in enumerate(given):
        if what.known.shape[1:] != card.store_size or not 0 <= what.z_bin < card.n_bins:
            raise ValueError(
                f"{what.source}: {what.known.shape[1:]} px in z-bin {what.z_bin}; the checkpoint draws "
                f"{card.store_size} px in z-bins 0 to {card.n_bins - 1}"
            )
        for index in range(each):
            key = stream_key(config.seed, card.fold, what.z_bin, what.label, number, index, name)
            requests.append(Request(key, what.z_bin, what.label, number, index))
            known.append(what.known)
            where.append(what.where)
    return requests, (np.array(known, np.float16), np.array(where, bool))


def draw_around(generator: Generator, given: Sequence[Given], each: int, mode: str, folder: Path) -> None:
    """Draw `each` samples around everything that is given into a folder that has no samples yet, a file a z-bin.

    Raises ForeignFile where there are some.
    """
    lying = sorted(Path(folder).glob("zbin-*"))
    if lying:
        raise ForeignFile(f"{lying[0]}: the folder has samples already; give another one")
    requests, known = requests_around(generator, given, each)
    images, masks = generator.draw(requests, mode, known)
    rows = with_lesions(manifest_rows(generator, requests, folder), masks, generator.config.tau)
    rows = [{**row, "mode": mode, "source": given[row["replica"]].source} for row in rows]
    bins = np.array([request.z_bin for request in requests])
    for z_bin in np.unique(bins):
        own = np.flatnonzero(bins == z_bin)
        write_samples(
            stem_of(folder, int(z_bin)),
            images[own],
            masks[own],
            [rows[place] for place in own],
            CONDITIONAL_COLUMNS,
            known=known[0][own],
            where=known[1][own],
        )
