"""The floor of a metric: its value for training slices instead of samples.

Each axis computes the floor with training slices that `floor_draws` chooses.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples

FLOOR_DRAWS = 20
"""Random choices of training slices over which the floor of a lesion metric is averaged: one choice has few lesions."""


def floor_draws(store: SliceStore, train: np.ndarray, samples: Samples, seed: int) -> list[np.ndarray]:
    """Choices of training slices in the samples' mix of z-bins and classes, the first from `seed`.

    Args:
        store: the slice store.
        train: (M,) store rows of the training subjects.
        samples: the samples that are evaluated.
        seed: seed of the first choice.

    Returns:
        Sorted indices into `train`, one array per different choice: one where every choice takes all slices.
    """
    requested, available = (
        strata(samples.z_bin, samples.label),
        strata(store.z_bin[train], store.label[train]),
    )
    drawn = [same_mix(requested, available, seed + number) for number in range(FLOOR_DRAWS)]
    return list({chosen.tobytes(): chosen for chosen in drawn}.values())


def mean_floor(values: Sequence[float]) -> tuple[float, str]:
    """The mean over choices of training slices, and a note with their number and spread.

    values: the metric of every choice; NaN where it could not be computed.
    """
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return float("nan"), ""
    if len(finite) == 1:
        return float(finite[0]), ""
    return float(
        finite.mean()
    ), f"floor: mean of {len(finite)} choices of training slices, sd {finite.std(ddof=1):.2g}"


def same_mix(requested: Sequence[Hashable], available: Sequence[Hashable], seed: int) -> np.ndarray:
    """Choose rows without replacement in the requested mix of strata.

    Samples and whole volumes have different shares of z-bins and classes. A floor from whole volumes would be lower
    than any model can reach, so the floor uses training slices in the samples' mix. A stratum with fewer rows than
    requested contributes all its rows; drawing with replacement would add copies.

    Args:
        requested: (N,) stratum of each sample, e.g. (z-bin, class).
        available: (M,) stratum of each training slice.
        seed: seed of the random choice.

    Returns:
        Indices into `available`, sorted; at most N.
    """
    counts = Counter(requested)
    generator = np.random.default_rng(seed)
    chosen, taken = [], Counter()
    keys = list(available)
    for row in generator.permutation(len(keys)):
        stratum = keys[row]
        if taken[stratum] < counts[stratum]:
            taken[stratum] += 1
            chosen.append(row)
    return np.sort(np.array(chosen, np.int64))


def strata(z_bin: np.ndarray, label: np.ndarray) -> list[tuple[int, int]]:
    """(z-bin, class) of each slice, for `same_mix`."""
    return list(zip(np.asarray(z_bin).tolist(), np.asarray(label).tolist(), strict=True))
