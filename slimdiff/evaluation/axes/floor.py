"""The floor of a metric: its value for training slices instead of samples.

`mix.select` chooses the training slices.
"""

from collections.abc import Sequence

import numpy as np

FLOOR_DRAWS = 20
"""Random choices of training slices over which the floor of a lesion metric is averaged: one choice has few lesions."""
FLOOR_NOTE = "floor: training slices in the mix of the held-out slices, as far as there are any"


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
    note = f"floor: mean of {len(finite)} choices of training slices, sd {finite.std(ddof=1):.2g}"
    return float(finite.mean()), note
