"""Samples of which a part is given, from a network that was trained to draw the whole pair.

`mask_to_image`: the mask is given, the image is drawn around it. `inpaint`: image and mask are given outside a region
(a real slice without lesion), and a lesion is drawn inside it. Both hold the given part fixed along the chain
(`slimdiff.diffusion.denoiser.Inpainted`); no network is trained for it.

A folder of such samples holds, beside what `slimdiff.generation.samples` says, `known` (float16) and `where` (bool) in
the archives, and in the manifests `mode`, and `source`: what was given.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimdiff.data.participants import DataError
from slimdiff.data.zbins import z_bin
from slimdiff.generation.folder import ForeignFile, manifest_rows, stem_of, with_lesions
from slimdiff.generation.generator import FixedRegion, Generator
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
) -> tuple[list[Request], FixedRegion]:
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
) -> tuple[list[Request], FixedRegion, np.ndarray, np.ndarray]:
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
    for number in sorted({what.z_bin for what in given}):
        own = [what for what in given if what.z_bin == number]
        requests, known, images, masks = draw_until_lesion(generator, own, each, attempts, f"{mode} {number}")
        rows = with_lesions(manifest_rows(generator, requests, folder), masks, generator.config.tau)
        rows = [{**row, "mode": mode, "source": own[row["replica"]].source} for row in rows]
        without += sum(row["class"] == 1 and row["lesion_px"] == 0 for row in rows)
        more = {"known": known[0], "where": known[1]}
        write_samples(stem_of(folder, number), images, masks, rows, CONDITIONAL_COLUMNS, **more)
    return without


IMAGE_RANGE = 1.001  # what rounding in a file may add to [-1, 1]
SLICE = ":z="  # between a volume's path and the index of a slice of it


@dataclass(frozen=True)
class SliceGrid:
    """The slices that a checkpoint draws."""

    size: tuple[int, int]
    """Height and width, in px."""
    spacing_mm: float
    z_range: tuple[int, int]
    """First and last slice index."""
    n_bins: int


def read_mask_slices(path: Path, grid: SliceGrid, own_bin: int | None) -> list[tuple[str, int, np.ndarray]]:
    """Lesion (or region) slices of a file: name for the manifest, z-bin, bool (H, W).

    Args:
        path: PNG or NIfTI. A PNG, and a NIfTI of one slice, belongs to `own_bin`; of a volume on the study's grid every
            slice within `z_range` that is not empty is taken, in the z-bin of its height.
        grid: what the checkpoint draws.
        own_bin: z-bin of a single slice.

    Raises:
        FileNotFoundError, DataError: naming the file, what was found and what is wanted.
    """
    masks = [_binary(path, plane) for plane in _slices(path, grid)]
    filled = [z for z, mask in enumerate(masks) if mask.any()]
    if not filled:
        raise DataError(f"{path}: no pixel is lesion; above {'127' if _is_png(path) else '0'} is")
    if len(masks) == 1:
        if own_bin is None:
            raise DataError(f"{path}: one slice, which does not say its height; give its z-bin (--z_bins)")
        return [(str(path), own_bin, masks[0])]
    if own_bin is not None:
        raise DataError(f"{path}: a volume, whose slices have their own heights; leave --z_bins out")
    first, last = grid.z_range
    inside = [z for z in filled if first <= z <= last]
    if not inside:
        raise DataError(
            f"{path}: its lesion lies in slices {filled[0]} to {filled[-1]}, outside of {first} to {last}"
        )
    if len(inside) < len(filled):
        out = len(filled) - len(inside)
        print(f"{path}: {out} lesion slices outside of {first} to {last} are left out", file=sys.stderr)
    return [(f"{path}{SLICE}{z}", int(z_bin(z, first, last, grid.n_bins)), masks[z]) for z in inside]


def read_image_slice(path: Path, grid: SliceGrid, name: str) -> np.ndarray:
    """The slice of an image that belongs to a slice `name` that `read_mask_slices` gave: float32 (H, W) in [-1, 1].

    A PNG's 0 … 255 become -1 … 1; a NIfTI is wanted in [-1, 1], as the stage preprocess writes it.
    """
    slices = _slices(path, grid)
    z = int(name.rpartition(SLICE)[2]) if SLICE in name else 0
    if z >= len(slices) or (SLICE not in name and len(slices) > 1):
        raise DataError(
            f"{path}: {len(slices)} slices, which are not those of {name}; both on one grid are wanted"
        )
    picture = slices[z].astype(np.float32)
    if _is_png(path):
        picture = picture / 127.5 - 1
    if not np.isfinite(picture).all() or np.abs(picture).max() > IMAGE_RANGE:
        raise DataError(
            f"{path}: values from {picture.min():.4g} to {picture.max():.4g}; [-1, 1] is wanted, as the stage "
            "preprocess writes it"
        )
    return picture.clip(-1, 1)


def _is_png(path: Path) -> bool:
    return Path(path).suffix.lower() == ".png"


def _binary(path: Path, values: np.ndarray) -> np.ndarray:
    # Half of white: what a drawing program smooths at the border belongs to the side it is nearer to.
    return values > (127 if _is_png(path) else 0)


def _grey(path: Path) -> np.ndarray:
    """uint8 (H, W) of a picture that has grey levels 0 ... 255 and nothing else, whichever way it stores them."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except Exception as error:
        raise DataError(f"{path}: not readable as a picture: {error}") from None
    if mode == "1":
        return values.astype(np.uint8) * 255
    if mode == "RGB" and (values == values[..., :1]).all():
        return values[..., 0]
    if mode != "L":
        raise DataError(
            f"{path}: a picture of mode {mode}; grey levels of 8 bits (0 to 255), or black and white"
        )
    return values


def _slices(path: Path, grid: SliceGrid) -> list[np.ndarray]:
    size, spacing_mm = grid.size, grid.spacing_mm
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if _is_png(path):
        slices = [_grey(path)]
    elif path.name.lower().endswith((".nii", ".nii.gz")):
        import nibabel

        from slimdiff.data.slices import axial

        try:
            image = nibabel.as_closest_canonical(nibabel.load(path))
            volume, zooms = np.asarray(image.dataobj), image.header.get_zooms()[:2]
        except Exception as error:
            raise DataError(f"{path}: not readable as NIfTI: {error}") from None
        if volume.ndim == 2:
            volume = volume[:, :, None]
        if volume.ndim != 3 or volume.dtype.kind not in "biuf":
            raise DataError(
                f"{path}: {volume.dtype} {volume.shape}; a slice or a volume of numbers is wanted"
            )
        slices = [axial(volume, z) for z in range(volume.shape[2])]
        if not np.allclose(zooms, spacing_mm, rtol=0.01):
            raise DataError(
                f"{path}: pixels of {zooms[0]:g} x {zooms[1]:g} mm; the checkpoint draws {spacing_mm:g} mm: bring the "
                "file onto the study's grid"
            )
    else:
        raise DataError(f"{path}: neither .png nor .nii nor .nii.gz")
    if slices[0].shape != size:
        raise DataError(
            f"{path}: slices of {slices[0].shape[1]} x {slices[0].shape[0]} px; the checkpoint draws {size[1]} x "
            f"{size[0]} px: bring the file onto the study's grid"
        )
    return slices
