"""From subjects' scores to rows: means with intervals over subjects, paired differences, and their tests.

A condition is what a segmenter was trained on: `real_50` (real slices of half of the training subjects),
`real_synthetic_50` (the same and samples), `synthetic` (samples alone, TSTR). `trts` is the segmenter of real slices
tested on samples. Rows are called `utility_{score}_{condition}`, and `utility_{score}_gain_50` for the difference
between real and synthetic together and real alone.
"""

from collections.abc import Mapping

import numpy as np

from slimdiff.evaluation import statistics
from slimdiff.evaluation.cell import COLUMNS
from slimdiff.evaluation.paired import wilcoxon_signed_rank
from slimdiff.evaluation.utility_scores import Scores
from slimdiff.files import MISSING

SCORES = {
    "dice": "dice",
    "sensitivity": "sensitivity",
    "false_positives": "false_positives_per_slice",
    "false_positive_share": "false_positive_share_empty",
}
"""Name in a row, and which of `Scores` it is."""
CAUTION = "samples also carry what their generator learnt of the other training subjects"
PAIRED = "paired over subjects, which the interval is over; another training could differ too"


def utility_rows(
    names: dict,
    percents: tuple[int, ...],
    subjects: Mapping[str, Scores],
    trts: tuple[Scores, Scores],
    n_boot: int,
    seed: int,
    without_samples: str = "",
) -> list[dict]:
    """The rows of one variant and fold.

    Args:
        names: study, variant and fold.
        percents: shares of the training subjects, ascending.
        subjects: condition to the scores of the held-out subjects, the same subjects in the same order; without
            `synthetic` where no segmenter could be trained on samples.
        trts: scores of every sample, and of held-out slices in the samples' share of lesion slices, by the segmenter of
            real slices.
        n_boot, seed: of the intervals.
        without_samples: why there is no `synthetic`.
    """
    rows = []

    def add(metric, values, floor=np.nan, note="", missing="no held-out subject has a lesion slice"):
        rows.append(_row(names, metric, values, floor, note, missing, n_boot, seed))

    for score, attribute in SCORES.items():
        of = {condition: getattr(scores, attribute) for condition, scores in subjects.items()}
        largest = percents[-1]
        for percent in percents:
            real, both = of[f"real_{percent}"], of[f"real_synthetic_{percent}"]
            caution = CAUTION if percent < 100 else ""
            add(f"utility_{score}_real_{percent}", real, note=_counts(score, subjects[f"real_{percent}"]))
            note = _joined("floor column: real alone", caution)
            add(f"utility_{score}_real_synthetic_{percent}", both, _mean(real), note)
            difference = both - real
            note = _joined(PAIRED, signed_rank(difference), caution)
            add(f"utility_{score}_gain_{percent}", difference, 0.0, note)
        real = of[f"real_{largest}"]
        note = f"floor column: real alone, {largest} %"
        drawn = of.get("synthetic", np.full(len(real), np.nan))
        missing = without_samples or "no held-out subject has a lesion slice"
        add(f"utility_{score}_synthetic", drawn, _mean(real), note, missing)
        rows.append(_trts_row(names, score, *trts, largest, n_boot, seed))
    return rows


def _row(names, metric, values, floor, note, missing, n_boot, seed) -> dict:
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return _finished(names, metric, np.nan, None, floor, 0, _joined(missing, "at least one is wanted"))
    values = values[known]
    interval = statistics.subject_bootstrap(lambda drawn: values[drawn].mean(), known, n_boot, seed)
    return _finished(names, metric, values.mean(), interval, floor, len(values), note)


def _trts_row(names, score, trts, held_out, percent, n_boot, seed) -> dict:
    """Samples have no subjects: pooled over all of them, resampled sample by sample; beside the held-out slices'."""

    def pooled(scores: Scores) -> float:
        return float(getattr(scores.pooled(), SCORES[score])[0])

    metric, value = f"utility_{score}_trts", pooled(trts)
    if np.isnan(value):
        kind = "without lesion" if score == "false_positive_share" else "with a lesion"
        return _finished(names, metric, value, None, np.nan, 0, f"no sample {kind}; at least one is wanted")
    interval = statistics.subject_bootstrap(lambda rows: pooled(trts[rows]), range(len(trts)), n_boot, seed)
    note = (
        f"trained on real slices, {percent} %; pooled over all samples, interval over samples; floor column: the same "
        "pooled over held-out slices, as many of them with a lesion as of samples"
    )
    return _finished(names, metric, value, interval, pooled(held_out), len(trts), note)


def _finished(names, metric, value, interval, floor, n, note) -> dict:
    reason = interval.reason if interval else None
    row = {
        **names,
        "z_bin": "all",
        "metric": metric,
        "extractor": MISSING,
        "value": float(value),
        "ci_low": interval.low if interval else np.nan,
        "ci_high": interval.high if interval else np.nan,
        "floor": float(floor),
        "n": n,
        "note": _joined(note, f"no interval: {reason}" if reason else ""),
    }
    return {column: row[column] for column in COLUMNS}


def _counts(score: str, scores: Scores) -> str:
    """What a score could not be taken of."""
    if score in ("dice", "sensitivity"):
        empty = int(np.isnan(getattr(scores, SCORES[score])).sum())
        return f"{empty} of {len(scores)} held-out subjects have no lesion and no score" if empty else ""
    if score == "false_positive_share":
        total, flagged = scores.empty_slices.sum(), scores.empty_with_false_positive.sum()
        return f"{flagged} of {total} slices without lesion"
    return ""


def signed_rank(differences: np.ndarray) -> str:
    """The two-sided signed rank test of paired differences in words, with the smallest p it could give."""
    test = wilcoxon_signed_rank(differences)
    if not test.n:
        return f"no difference in any of {test.zeros} subjects"
    return f"p = {test.p:.2g} over {test.n} subjects that differ, smallest reachable {test.smallest_p:.2g}"


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
