"""Training slices in the place of samples: what a perfect model of other subjects would score."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def same_mix(wanted: Sequence[Hashable], available: Sequence[Hashable], seed: int) -> np.ndarray:
    """Rows drawn without replacement so that each stratum is there as often as it is wanted, as far as it goes.

    Samples are drawn in other shares of z-bins and classes than volumes have them. A metric between volumes as
    they come would lie below what any model can reach; a floor from slices of the samples' own mix does not.
    Where a stratum has fewer rows than wanted all of them are taken: drawing one twice would put copies into the
    set, and a floor of fewer slices is an honest one.

    Args:
        wanted: (N,) stratum of each sample, e.g. (z-bin, class).
        available: (M,) stratum of each training slice.
        seed: of the draw.

    Returns:
        Indices into `available`, sorted; at most N.
    """
    counts = Counter(wanted)
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
