"""The rules of the colours on the front page: the only place that decides what is good, fair, bad or cannot be told.

docs/metrics.md, "The colours of the front page", describes them with the same numbers.
A value is read in every fold; the worst fold counts. A metric without a row or value is left out.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

STATES = {"good": "as real", "fair": "differs", "bad": "fails", "unknown": "cannot be told"}
"""State to the word beside its colour: green, amber, red, grey."""
WORST_FIRST = ("bad", "unknown", "fair", "good")
FEWEST_SUBJECTS = 5
"""Held-out subjects of a fold, below which nothing that is compared with them is judged."""
BLURRED_SHARE = 0.5
"""KID that fails, as a share of that of held-out slices after a blur of 2 px (`kid_blurred`)."""
SPECTRUM_DB = 3.0
"""Difference of the power spectra that fails: a factor of two at a typical scale."""
SHAPE_SD = 1.0
"""Distance of lesion features, in standard deviations of real lesions, that fails."""
AREA_DOUBLINGS = 1.0
"""Lesion area that fails: twice or half that of held-out lesions at the same height."""
HALF_WAY = 0.5
"""Share of the way from held-out lesions to shuffled masks at which the contrast fails."""
CLASS_GOOD, CLASS_BAD = 0.95, 0.8
"""Share of samples that obey their class: from the first on good, below the second bad."""
RATIO_BAD = 0.7
"""Distance ratio R that fails; 1: as far from training slices as unseen subjects."""
SHARE_BAD = 0.1
"""Share of suspects or of outliers that fails."""


@dataclass(frozen=True)
class Reading:
    """One metric in one fold, with its state."""

    metric: str
    extractor: str
    fold: int
    value: float
    low: float
    high: float
    floor: float
    state: str


def worst(states: Iterable[str]) -> str:
    """The worst state; unknown if there is none."""
    found = set(states)
    return next((state for state in WORST_FIRST if state in found), "unknown")


def _known(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def distance_state(row, limit: float = math.inf) -> str:
    """A metric for which lower is better: good if the interval reaches the floor, bad from `limit` on.

    Beyond the limit an interval that is so wide that it reaches the floor is no proof: fair.
    """
    if not _known(row.ci_low, row.floor):
        return "unknown"
    reaches, beyond = row.ci_low <= row.floor, row.value >= limit
    return "fair" if reaches == beyond else "good" if reaches else "bad"


def closeness_state(row, wrong: float) -> str:
    """A metric that should be that of held-out slices: good if the interval contains the floor.

    wrong: the value if image and mask had nothing to do with each other; NaN: unknown.
    """
    if not _known(row.ci_low, row.ci_high, row.floor):
        return "unknown"
    if row.ci_low <= row.floor <= row.ci_high:
        return "good"
    # A contrast beyond that of real lesions is not on the way to the shuffled one.
    span = wrong - row.floor
    lost = (row.value - row.floor) / span if _known(wrong) and span else 0.0
    return "bad" if lost >= HALF_WAY else "fair"


def area_state(row) -> str:
    """The log2 ratio of lesion areas: only whether lesions are far too large or small."""
    if not _known(row.ci_low, row.ci_high):
        return "unknown"
    if row.ci_low <= row.floor <= row.ci_high or row.ci_low <= 0 <= row.ci_high:
        return "good"
    return "bad" if abs(row.value) >= AREA_DOUBLINGS else "fair"


def ratio_state(row) -> str:
    """The distance ratio R: good if the interval reaches 1."""
    if not _known(row.ci_high):
        return "unknown"
    if row.ci_high >= 1:
        return "good"
    return "bad" if row.value <= RATIO_BAD else "fair"


def obeying_state(share: float) -> str:
    """The share of samples that obey their class; needs no held-out subject."""
    return "good" if share >= CLASS_GOOD else "fair" if share >= CLASS_BAD else "bad"


def gain_state(row, lower_is_better: bool = False) -> str:
    """A difference that the samples made: good if the interval is above 0, bad if it is below, else fair."""
    if not _known(row.ci_low, row.ci_high):
        return "unknown"
    low, high = (-row.ci_high, -row.ci_low) if lower_is_better else (row.ci_low, row.ci_high)
    return "good" if low > 0 else "bad" if high < 0 else "fair"


STATE_OF = {
    "texture": {
        "kid": lambda row, anchors: distance_state(row, BLURRED_SHARE * anchors.get("kid_blurred", math.inf)),
        "spectrum": lambda row, anchors: distance_state(row, SPECTRUM_DB),
    },
    "shape": {
        "mmd_mf_w1": lambda row, anchors: distance_state(row, SHAPE_SD),
        "lesion_area_gap": lambda row, anchors: area_state(row),
    },
    "pair": {
        "delta_median": lambda row, anchors: closeness_state(
            row, anchors.get("delta_median_shuffled", math.nan)
        ),
        "mmd_pl_w1": lambda row, anchors: distance_state(row, SHAPE_SD),
    },
    "class": {
        "lesion_share_class1": lambda row, anchors: obeying_state(row.value),
        "lesion_share_class0": lambda row, anchors: obeying_state(1 - row.value),
    },
    "copies": {
        "suspect_share": lambda row, anchors: distance_state(row, SHARE_BAD),
        "memorisation_ratio": lambda row, anchors: ratio_state(row),
    },
    "outliers": {"outlier_share": lambda row, anchors: distance_state(row, SHARE_BAD)},
    "useful": {
        "utility_dice_gain": lambda row, anchors: gain_state(row),
        "utility_false_positives_gain": lambda row, anchors: gain_state(row, lower_is_better=True),
    },
}
"""Answer to its metrics and how each is read; a utility metric without its percentage of subjects."""
NO_SUBJECTS_NEEDED = ("class",)
LESION_SUBJECTS = ("shape", "pair", "useful")
"""Verdicts for which only held-out subjects with a lesion count."""


def readings(
    rows: pd.DataFrame, verdict: str, subjects: Mapping[int, int], names: Mapping[str, str] | None = None
) -> list[Reading]:
    """Each value of the metrics of a verdict, over all z-bins, with its state.

    Args:
        rows: of `read_metrics`, one variant.
        verdict: key of STATE_OF.
        subjects: fold to the number of held-out subjects that count.
        names: metric of STATE_OF to its name in the table, where they differ.
    """
    rows = rows[rows["z_bin"].isna() & rows["value"].notna()]
    found = []
    for metric, state_of in STATE_OF[verdict].items():
        name = (names or {}).get(metric, metric)
        for row in rows[rows["metric"] == name].itertuples():
            same = rows[(rows["fold"] == row.fold) & (rows["extractor"] == row.extractor)]
            anchors = dict(zip(same["metric"], same["value"], strict=True))
            state = state_of(row, anchors)
            if verdict not in NO_SUBJECTS_NEEDED and subjects.get(row.fold, 0) < FEWEST_SUBJECTS:
                state = "unknown"
            numbers = (float(row.value), float(row.ci_low), float(row.ci_high), float(row.floor))
            found.append(Reading(metric, row.extractor, int(row.fold), *numbers, state))
    return found


def by_site_readings(rows: pd.DataFrame, subjects: Mapping[int, int]) -> list[Reading]:
    """Metrics by site, as far as there are any: names with the word `site`, lower is better."""
    rows = rows[rows["z_bin"].isna() & rows["value"].notna()]
    found = []
    for row in rows[rows["metric"].str.split("_").map(lambda words: "site" in words)].itertuples():
        enough = subjects.get(row.fold, 0) >= FEWEST_SUBJECTS
        state = distance_state(row) if enough else "unknown"
        numbers = (float(row.value), float(row.ci_low), float(row.ci_high), float(row.floor))
        found.append(Reading(row.metric, row.extractor, int(row.fold), *numbers, state))
    return found


def shown_reading(found: Iterable[Reading], metric: str) -> Reading | None:
    """The reading of a metric that stands on the front page: the worst state, of these the lowest fold."""
    own = [reading for reading in found if reading.metric == metric]
    return min(own, key=lambda reading: (WORST_FIRST.index(reading.state), reading.fold), default=None)
