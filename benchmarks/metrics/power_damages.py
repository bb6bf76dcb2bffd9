"""Damages to the samples of an otherwise perfect model."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.metrics.lesions import brain_middles
from slimdiff.evaluation.metrics.profiles import BRAIN_THRESHOLD
from slimdiff.generation.samples import Samples

Damage = Callable[[Samples, np.ndarray, np.random.Generator], Samples]
"""(samples, subject of each sample (N,), random generator) -> damaged samples."""

CROSS = ndimage.generate_binary_structure(2, 1)[None]


def of_images(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Damage:
    """A damage to images only; `change` maps (N, H, W) float32 to the same; the result is clipped to [-1, 1]."""

    def damage(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
        images = change(samples.images.astype(np.float32), rng)
        return replace(samples, images=np.clip(images, -1, 1).astype(np.float16))

    return damage


def of_masks(change: Callable[..., np.ndarray]) -> Damage:
    """A damage to masks only; `change` maps (N, H, W) bool to the same."""

    def damage(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
        changed = change(samples.masks > 0, structure=CROSS)
        return replace(samples, masks=np.where(changed, 1, -1).astype(np.float16))

    return damage


def blurred(images: np.ndarray, rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Gaussian blur."""
    return ndimage.gaussian_filter(images, (0, sigma_px, sigma_px), mode="nearest")


def noisy(images: np.ndarray, rng: np.random.Generator, sd: float) -> np.ndarray:
    """Add white noise in the brain."""
    return images + np.where(images > BRAIN_THRESHOLD, rng.normal(0, sd, images.shape), 0)


def brighter(images: np.ndarray, rng: np.random.Generator, by: float) -> np.ndarray:
    """Add `by` to the grey values of the brain."""
    return images + np.where(images > BRAIN_THRESHOLD, np.float32(by), 0)


def collapsed(samples: Samples, subjects: np.ndarray, rng: np.random.Generator, parts: int) -> Samples:
    """Slices of one in `parts` subjects, each repeated `parts` times: about as many slices as before.

    Repeated slices have different names, like equal samples of a model.
    """
    names = rng.permutation(np.unique(subjects))
    kept = np.flatnonzero(np.isin(subjects, names[: len(names) // parts]))
    rows = np.tile(kept, parts)
    names = [f"{samples.id[row]}_{number // len(kept)}" for number, row in enumerate(rows)]
    return Samples(
        samples.images[rows],
        samples.masks[rows],
        samples.z_bin[rows],
        samples.label[rows],
        np.array(names),
    )


def other_subjects(
    z_bin: np.ndarray, label: np.ndarray, subjects: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A permutation: class-1 slices map to a slice of another subject in the same z-bin, class-0 slices to themselves.

    Another subject is required because a lesion extends over neighbouring slices of the same subject.

    Raises ValueError if more than half of the lesion slices of a z-bin are from one subject.
    """
    names, index = np.unique(subjects, return_inverse=True)
    rank = rng.permutation(len(names))[index]
    partner = np.arange(len(z_bin))
    for one in np.unique(z_bin[label == 1]):
        rows = np.flatnonzero((z_bin == one) & (label == 1))
        rows = rows[np.argsort(rank[rows], kind="stable")]
        most = np.bincount(rank[rows]).max()
        if 2 * most > len(rows):
            raise ValueError(
                f"z-bin {one}: {most} of {len(rows)} lesion slices are from one subject; expected at most half"
            )
        # Sorted by subject: a shift by the longest run always reaches another subject.
        partner[rows] = np.roll(rows, most)
    return partner


def shuffled(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
    """Lesion masks exchanged between subjects within a z-bin; the images stay."""
    return replace(samples, masks=samples.masks[other_subjects(samples.z_bin, samples.label, subjects, rng)])


def mirrored(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
    """Mirror image and mask of slices whose lesion is right of the middle of the brain."""
    lesion = samples.masks > 0
    columns = np.arange(lesion.shape[2])
    with np.errstate(invalid="ignore"):
        place = lesion.sum(axis=1) @ columns / lesion.sum(axis=(1, 2))
    right = np.flatnonzero(place > brain_middles(samples.images)[:, 1])
    images, masks = samples.images.copy(), samples.masks.copy()
    for stack in (images, masks):
        stack[right] = stack[right, :, ::-1]
    return replace(samples, images=images, masks=masks)


DAMAGES: dict[str, Damage] = {
    "none": lambda samples, subjects, rng: samples,
    "blur 0.4 px": of_images(partial(blurred, sigma_px=0.4)),
    "blur 0.8 px": of_images(partial(blurred, sigma_px=0.8)),
    "noise 0.03": of_images(partial(noisy, sd=0.03)),
    "noise 0.06": of_images(partial(noisy, sd=0.06)),
    "brighter 0.05": of_images(partial(brighter, by=0.05)),
    "half of the subjects, twice": partial(collapsed, parts=2),
    "a third of the subjects, three times": partial(collapsed, parts=3),
    "masks shuffled": shuffled,
    "masks dilated 1 px": of_masks(ndimage.binary_dilation),
    "masks opened": of_masks(ndimage.binary_opening),
    "lesions to the left": mirrored,
}


def damaged(name: str, samples: Samples, subjects: np.ndarray, seed: int) -> Samples:
    """Samples with one of `DAMAGES`; the result depends only on the seed and the damage."""
    return DAMAGES[name](samples, subjects, np.random.default_rng([seed, list(DAMAGES).index(name)]))
