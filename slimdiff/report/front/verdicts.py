"""The verdicts of the front page in plain words, and what follows from them: the first line, and what is allowed."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from slimdiff.report.front.rules import (
    FEWEST_SUBJECTS,
    LESION_SUBJECTS,
    STATE_OF,
    Reading,
    by_site_readings,
    readings,
    shown_reading,
    worst,
)
from slimdiff.report.metric_table import MINUS

QUESTIONS = {
    "texture": "Do the images look real?",
    "shape": "Are the lesions shaped like real ones?",
    "pair": "Do image and mask fit together?",
    "class": "Do samples obey the requested class?",
    "copies": "Are training slices copied?",
    "outliers": "Are single samples broken?",
    "useful": "Do they help a segmenter?",
    "sites": "Are they as good for every site?",
}
GOES_TO = {
    "texture": ("samples_{}.png", "Samples"),
    "shape": ("lesions_{}.svg", "Lesions"),
    "pair": ("metrics.html", "Metrics"),
    "class": ("metrics_by_zbin_{}.svg", "By height"),
    "copies": ("nearest_{}.png", "Copies"),
    "outliers": ("outliers_{}.png", "Outliers"),
    "useful": ("usefulness.html", "Usefulness"),
    "sites": ("metrics.html", "Metrics"),
}
"""Answer to the file that shows it, and the word of its link."""
FAILS = {
    "texture": "their texture is far from that of real slices (grey blobs, blur or noise)",
    "shape": "their lesions are unlike real ones",
    "pair": "image and mask do not fit together",
    "class": "they do not obey the requested class",
    "copies": "they copy training slices",
    "outliers": "too many of them are broken",
    "sites": "they fail for a site",
}
"""Answer to the reason in the first line."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question, with the number that decides it."""

    key: str
    state: str
    answer: str
    value: str = ""
    floor: str = ""
    interval: str = ""
    fold: int | None = None
    """Fold of the number: that of the worst state."""
    measure: str = ""
    """Name of the number."""


@dataclass(frozen=True)
class Use:
    """Something that a reader may want to do with the samples."""

    purpose: str
    allowed: str
    """yes, with care, no, cannot be told."""
    why: str


def number(value: float) -> str:
    """Three significant digits; – for NaN."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return text.replace("-", MINUS)


def percent(value: float) -> str:
    """A share in percent."""
    if not math.isfinite(value):
        return "–"
    shown = 100 * value
    return f"{shown:.0f}\u00a0%" if shown >= 10 or shown == 0 else f"{shown:.1f}\u00a0%"


def utility_names(rows: pd.DataFrame) -> dict[str, str]:
    """The metrics of the verdict `useful` to their rows with the largest share of the training subjects."""
    names = {}
    for metric in STATE_OF["useful"]:
        shares = [
            int(found[1])
            for name in rows["metric"].unique()
            if (found := re.fullmatch(rf"{metric}_(\d+)", name))
        ]
        if shares:
            names[metric] = f"{metric}_{max(shares)}"
    return names


def judge_samples(
    rows: pd.DataFrame,
    subjects: Mapping[int, tuple[int, int]],
    sites: Sequence[str] = (),
    utility: bool = True,
) -> list[Answer]:
    """The verdicts of one variant, in the order of the page.

    Args:
        rows: of `read_metrics`, one variant, all folds; rows may be absent.
        subjects: fold to the number of held-out subjects, and of those with a lesion.
        sites: names of the sites; with fewer than two there is no verdict by site.
        utility: whether the study tests it.
    """
    every = {fold: counts[0] for fold, counts in subjects.items()}
    lesioned = {fold: counts[1] for fold, counts in subjects.items()}
    result = []
    for key in STATE_OF:
        own = lesioned if key in LESION_SUBJECTS else every
        found = readings(rows, key, own, utility_names(rows) if key == "useful" else None)
        if key == "useful" and not utility:
            result.append(
                Answer(key, "unknown", "Cannot be told: the study does not test it (utility.enabled).")
            )
        elif not found:
            result.append(Answer(key, "unknown", "Cannot be told: there is no value of this metric."))
        else:
            result.append(_verdict(key, found, rows, own))
    if len(sites) > 1:
        found = by_site_readings(rows, every)
        if found:
            result.append(_verdict("sites", found, rows, every))
        else:
            words = f"Cannot be told: no metric was computed by site ({len(sites)} sites)."
            result.append(Answer("sites", "unknown", words))
    return result


def _verdict(key: str, found: list[Reading], rows: pd.DataFrame, subjects) -> Answer:
    state = worst(reading.state for reading in found)
    lead = _leading(found, state, found[0].metric)
    if state == "unknown":
        few = {fold: count for fold, count in subjects.items() if count < FEWEST_SUBJECTS}
        kind = " with a lesion" if key in LESION_SUBJECTS else ""
        words = (
            "Cannot be told: "
            + ", ".join(f"fold {fold} has {count} held-out subjects{kind}" for fold, count in few.items())
            + f"; at least {FEWEST_SUBJECTS} are needed."
            if few
            else "Cannot be told: no interval, or no value of real slices to compare with."
        )
    else:
        words = dict(zip(("good", "fair", "bad"), WORDS[key], strict=True))[state]
        if key in DETAILS and (more := DETAILS[key](rows)):
            words += f" {more}"
    shown = percent if lead.metric in SHARES else number
    interval = f"{shown(lead.low)} to {shown(lead.high)}" if math.isfinite(lead.low) else "–"
    name = NAMES.get(lead.metric, lead.metric) + (f" ({lead.extractor})" if lead.extractor else "")
    return Answer(key, state, words, shown(lead.value), shown(lead.floor), interval, lead.fold, name)


def _leading(found: list[Reading], state: str, first: str) -> Reading:
    """The reading that is shown: of the first metric if that has the verdict's state, else one that has it."""
    own = shown_reading(found, first)
    if own is None or own.state != state:
        own = next((reading for reading in found if reading.state == state), own)
    return own or found[0]


def _mean(rows: pd.DataFrame, metric: str, column: str = "value") -> float:
    own = rows[(rows["metric"] == metric) & rows["z_bin"].isna()]
    # Values of different extractors are not comparable.
    return float(own[own["extractor"] == own["extractor"].iloc[0]][column].mean()) if len(own) else math.nan


NAMES = {
    "kid": "KID",
    "spectrum": "Difference of spectra [dB]",
    "mmd_mf_w1": "Distance of shapes [sd]",
    "lesion_area_gap": "Lesion area [doublings]",
    "delta_median": "Lesion contrast",
    "mmd_pl_w1": "Distance of intensities [sd]",
    "lesion_share_class1": "Lesion present where requested",
    "lesion_share_class0": "Lesion present where not requested",
    "suspect_share": "Suspected copies",
    "memorisation_ratio": "Distance ratio R",
    "outlier_share": "Outliers",
    "utility_dice_gain": "Gain of Dice",
    "utility_false_positives_gain": "More false positives a slice",
}
"""Metric to its words in front of the value."""


WORDS = {
    "texture": (
        "Yes, by these measures: as close to held-out slices as real training slices are.",
        "Not quite: they differ from held-out slices by more than real training slices do.",
        "No: their texture is far from that of real slices, like that of grey blobs, blur or noise.",
    ),
    "shape": (
        "Yes: sizes and shapes differ no more than those of real lesions do.",
        "Not quite: sizes or shapes differ more than those of real lesions do.",
        "No: sizes or shapes are far from those of real lesions.",
    ),
    "pair": (
        "Yes: inside the masks the contrast is that of held-out lesions.",
        "Not quite: intensities inside the masks differ from those of held-out lesions.",
        "No: the masks are on tissue that does not look like a lesion.",
    ),
    "class": ("Yes.", "Mostly.", "No."),
    "copies": (
        "None found: samples are as far from training slices as unseen subjects are.",
        "Possibly: some samples are closer to training slices than unseen subjects are. Look at them.",
        "Yes: samples are much closer to training slices than unseen subjects are.",
    ),
    "outliers": (
        "No more than among real slices. A fault that all samples share does not count here.",
        "Some: more than among real slices. They can be left out (export.without_outliers).",
        "Yes, many. See what is wrong with them before you use any.",
    ),
    "useful": (
        "Yes: a small segmenter improves when they are added.",
        "Not shown: adding them changes a small segmenter by less than can be measured here.",
        "No: a small segmenter gets worse when they are added.",
    ),
    "sites": (
        "Yes: for every site as close as real training slices are.",
        "Not quite: at least one site differs by more than real training slices do.",
        "No: at least one site fails.",
    ),
}
"""Answer to its words where it is good, fair and bad."""
SHARES = ("lesion_share_class1", "lesion_share_class0", "suspect_share", "outlier_share")
"""Metrics that are shown in percent."""


def _among_real(rows: pd.DataFrame) -> str:
    among, real = _mean(rows, "precision"), _mean(rows, "precision", "floor")
    if not math.isfinite(among):
        return ""
    return f"{percent(among)} lie among the real slices (training slices: {percent(real)})."


def _size(rows: pd.DataFrame) -> str:
    gap = _mean(rows, "lesion_area_gap")
    if not math.isfinite(gap):
        return ""
    return f"At the same height their area is {2**gap:.2f} times that of held-out lesions."


def _contrast(rows: pd.DataFrame) -> str:
    ours, real = _mean(rows, "delta_median"), _mean(rows, "delta_median", "floor")
    shuffled = _mean(rows, "delta_median_shuffled")
    if not math.isfinite(ours):
        return ""
    return f"Contrast {number(ours)}; held-out lesions {number(real)}; masks shuffled {number(shuffled)}."


def _obedience(rows: pd.DataFrame) -> str:
    shares = {"with": _mean(rows, "lesion_share_class1"), "without": _mean(rows, "lesion_share_class0")}
    parts = [
        f"{percent(share)} of the samples {word} a requested lesion have one"
        for word, share in shares.items()
        if math.isfinite(share)
    ]
    return f"{'; '.join(parts)}."


def _ratios(rows: pd.DataFrame) -> str:
    own = rows[(rows["metric"] == "memorisation_ratio") & rows["z_bin"].isna() & rows["value"].notna()]
    lowest = own.groupby("extractor", sort=False)["value"].min()
    words = ", ".join(f"{number(value)} ({space})" for space, value in lowest.items())
    return f"Distance ratio R: {words}." if words else ""


def _dice(rows: pd.DataFrame) -> str:
    own = utility_names(rows)
    gain = _mean(rows, own.get("utility_dice_gain", ""))
    false = _mean(rows, own.get("utility_false_positives_gain", ""))
    alone = _mean(rows, f"utility_dice_real_{own.get('utility_dice_gain', '').rpartition('_')[2]}")
    more = []
    if math.isfinite(gain):
        more.append(f"Dice {number(alone)} → {number(alone + gain)} over folds")
    if math.isfinite(false):
        more.append(f"false positives {'+' if false >= 0 else ''}{number(false)} a slice")
    return f"{'; '.join(more)}." if more else ""


DETAILS = {
    "texture": _among_real,
    "shape": _size,
    "pair": _contrast,
    "class": _obedience,
    "copies": _ratios,
    "useful": _dice,
}
"""Answer to the sentence with further numbers behind its words."""
QUALITY = ("texture", "shape", "pair", "class", "outliers", "sites")
"""Verdicts that decide whether a segmenter may be trained on the samples."""


def first_line(verdicts: Sequence[Answer]) -> tuple[str, str]:
    """State and text of the page's first line: whether these samples can be trusted."""
    of = {verdict.key: verdict.state for verdict in verdicts}
    failed = [FAILS[key] for key in FAILS if of.get(key) == "bad"]
    if failed:
        return "bad", f"Do not use these samples: {_listed(failed)}."
    if of.get("useful") == "bad":
        return "bad", "Do not add these samples to the training of a segmenter: it got worse with them."
    if of.get("texture") == "unknown":
        answer = next(verdict.answer for verdict in verdicts if verdict.key == "texture")
        return "unknown", f"Whether these samples can be trusted cannot be told:{answer.partition(':')[2]}"
    fair = [QUESTIONS[key] for key in QUESTIONS if of.get(key) == "fair"]
    unknown = [QUESTIONS[key] for key in QUESTIONS if of.get(key) == "unknown"]
    if fair:
        return "fair", f"Use with care. Open: {' '.join(fair + unknown)}"
    if unknown:
        return "fair", f"Close to real slices as far as was measured. Cannot be told: {' '.join(unknown)}"
    return (
        "good",
        "These samples are as close to real slices as real slices are to each other, and a segmenter gains.",
    )


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def uses(verdicts: Sequence[Answer]) -> list[Use]:
    """What may be done with the samples."""
    of = {verdict.key: verdict.state for verdict in verdicts}
    quality = worst(of[key] for key in QUALITY if key in of)
    useful, copies = of.get("useful", "unknown"), of.get("copies", "unknown")
    if "bad" in (quality, useful):
        train = Use("Train a segmenter", "no", "see the red rows")
    elif useful == "good" and quality == "good":
        train = Use("Train a segmenter", "yes", "beside real slices, in the tested share")
    elif useful == "unknown":
        train = Use("Train a segmenter", "cannot be told", "no benefit was measured")
    else:
        train = Use("Train a segmenter", "with care", "compare with real slices alone")
    share = {
        "good": Use("Share them", "with care", "no copy found; no test proves privacy"),
        "fair": Use("Share them", "with care", "see the suspected copies"),
        "bad": Use("Share them", "no", "they copy training slices"),
        "unknown": Use("Share them", "cannot be told", "copies could not be tested"),
    }[copies]
    demo = Use("Teach, test software", "yes", "mark them as synthetic")
    if of.get("texture") == "bad":
        demo = Use("Teach, test software", "with care", "they do not look like brain slices")
    return [train, share, demo, Use("Diagnosis", "no", "")]
