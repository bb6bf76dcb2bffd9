"""Ways in which samples of an otherwise perfect model may be wrong."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.metrics.lesions import brain_middles
from slimdiff.evaluation.metrics.profiles import BRAIN_THRESHOLD
from slimdiff.generation.samples import Samples

Damage = Callable[[Samples, np.ndarray, np.random.Generator], Samples]
"""Takes samples, (N,) the subject that each comes from, and a source of random numbers."""

CROSS = ndimage.generate_binary_structure(2, 1)[None]


def of_images(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Damage:
    """A damage to the images alone; `change` takes and gives (N, H, W) float32, what leaves [-1, 1] is clipped."""

    def damage(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
        images = change(samples.images.astype(np.float32), rng)
        return replace(samples, images=np.clip(images, -1, 1).astype(np.float16))

    return damage


def of_masks(change: Callable[..., np.ndarray]) -> Damage:
    """A damage to the masks alone; `change` takes and gives (N, H, W) bool."""

    def damage(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
        changed = change(samples.masks > 0, structure=CROSS)
        return replace(samples, masks=np.where(changed, 1, -1).astype(np.float16))

    return damage


def blurred(images: np.ndarray, rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Images through a Gaussian."""
    return ndimage.gaussian_filter(images, (0, sigma_px, sigma_px), mode="nearest")


def noisy(images: np.ndarray, rng: np.random.Generator, sd: float) -> np.ndarray:
    """White noise in the brain."""
    return images + np.where(images > BRAIN_THRESHOLD, rng.normal(0, sd, images.shape), 0)


def brighter(images: np.ndarray, rng: np.random.Generator, by: float) -> np.ndarray:
    """The brain brighter by so much."""
    return images + np.where(images > BRAIN_THRESHOLD, np.float32(by), 0)


def collapsed(samples: Samples, subjects: np.ndarray, rng: np.random.Generator, parts: int) -> Samples:
    """Only every so-manieth subject's slices, each as often as that: as many as before, up to a subject's.

    A repeated slice has a name of its own, as a model's two samples would have that happen to be equal.
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
    """For each slice of class 1 one of another subject in its z-bin, every one once; for class 0 the slice itself.

    Of another subject, because a lesion goes on in the next slice of the same one.

    Raises ValueError where more than half of a z-bin's lesion slices are one subject's.
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
                f"z-bin {one}: {most} of {len(rows)} lesion slices are one subject's; at most half may be"
            )
        # Sorted by subject, so that by the longest run a slice always meets another subject's.
        partner[rows] = np.roll(rows, most)
    return partner


def shuffled(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
    """Lesion masks exchanged between subjects within a z-bin; the images stay."""
    return replace(samples, masks=samples.masks[other_subjects(samples.z_bin, samples.label, subjects, rng)])


def mirrored(samples: Samples, subjects: np.ndarray, rng: np.random.Generator) -> Samples:
    """Slices with their lesion right of the middle of the brain turned over, image and mask together."""
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
    """Samples with one of `DAMAGES`; the same seed gives the same bits, whatever other damages are asked for."""
    return DAMAGES[name](samples, subjects, np.random.default_rng([seed, list(DAMAGES).index(name)]))
