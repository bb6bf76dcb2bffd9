"""The floor of a metric: its value for training slices instead of samples.

No model that fits the population scores better. Each axis computes the floor with the slices that `floor_rows` chooses.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples


def floor_rows(store: SliceStore, train: np.ndarray, samples: Samples, seed: int) -> np.ndarray:
    """Store rows of training slices in the samples' mix of z-bins and classes.

    Args:
        store: the slice store.
        train: store rows of the training subjects.
        samples: the samples that are evaluated.
        seed: seed of the random choice.
    """
    requested = strata(samples.z_bin, samples.label)
    return train[same_mix(requested, strata(store.z_bin[train], store.label[train]), seed)]


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
