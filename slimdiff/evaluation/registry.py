"""Every metric of metrics.tsv and utility.tsv: its name, its axis, its label, and how it is read.

An axis adds rows under names of this table only; report and comparison read label, direction and order here. A new
metric is a function in `evaluation/metrics/`, its call in an axis, and a row of `METRICS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

AXES = {
    "image": "Images",
    "mask": "Lesion masks",
    "pair": "Image and mask together",
    "control": "Class fidelity",
    "memorisation": "Memorisation of training slices",
    "outliers": "Broken samples",
    "sites": "Sites",
    "utility": "Utility for segmentation",
}
"""Axis to its heading, in the order of all tables."""
COLUMNS = (
    "study",
    "variant",
    "fold",
    "z_bin",
    "metric",
    "extractor",
    "value",
    "ci_low",
    "ci_high",
    "floor",
    "n",
    "reason",
    "interval_reason",
)
"""Columns of metrics.tsv and utility.tsv."""
CAUTION = "optimistic: the generator of the samples was trained on all training subjects"
"""Note of gains in utility.tsv with fewer than all training subjects."""
SYMBOLS = {"lower": "↓", "higher": "↑", "floor": "≈", "zero": "→ 0", "none": ""}
"""Which value is better: a lower one, a higher one, one closer to the floor, one closer to 0; none: no score."""
SYMBOLS_LEGEND = "↓ lower is better, ↑ higher, ≈ closer to the floor, → 0 closer to 0"

SHAPE_FEATURES = (
    "area",
    "perimeter",
    "circularity",
    "solidity",
    "extent",
    "eccentricity",
    "major_axis",
    "minor_axis",
    "equivalent_diameter",
)
"""Columns of `metrics.components`: the shape of one lesion."""
CONTRAST_FEATURES = ("delta", "z_in", "sigma_norm", "edge_align", "frac_bright")
"""Columns of `metrics.lesion_contrast`: the intensities of one lesion."""

UTILITY_SCORES = {
    "dice": ("Dice", "higher"),
    "sensitivity": ("Sensitivity", "higher"),
    "false_positives": ("False positives per slice", "lower"),
    "false_positive_share": ("Lesion-free slices with a false positive", "lower"),
}
"""Score of a segmenter to its label and which value is better."""
SHARE_CONDITIONS = {"real": "real", "real_synthetic": "real + synthetic", "gain": "gain from synthetic"}
"""What a segmenter was trained on, for a share of the training subjects; gain: the difference of the other two."""
WHOLE_CONDITIONS = {"synthetic": "trained on synthetic", "trts": "tested on synthetic"}
"""The same without a share."""


@dataclass(frozen=True)
class Metric:
    """How one metric is read and shown."""

    name: str
    """Column `metric` of the tables."""
    axis: str
    """Key of AXES."""
    label: str
    better: str = "none"
    """Key of SYMBOLS."""
    headline: bool = False
    """Whether it has a panel in the figure of metrics by variant."""
    anchor: tuple[str, str] | None = None
    """Name and description of another metric on the same scale, marked in that panel."""
    share: bool = False
    """Whether the panel spans 0 to 1."""
    by_z_bin: bool = False
    """Whether it has a panel in the figure of metrics by z-bin."""


def utility_metric(score: str, condition: str, percent: int | None = None) -> str:
    """Name of a row of utility.tsv.

    Args:
        score: key of UTILITY_SCORES.
        condition: key of SHARE_CONDITIONS or WHOLE_CONDITIONS.
        percent: of the training subjects, with a condition of SHARE_CONDITIONS.
    """
    name = f"utility_{score}_{condition}"
    return name if percent is None else f"{name}_{percent}"


def _features(axis: str, metric: str, names: Sequence[str]) -> list[Metric]:
    title = metric.replace("_", "-").upper()
    return [
        Metric(f"{metric}_w1_{name}", axis, f"{title}, W1 of {name.replace('_', ' ')}", "lower")
        for name in names
    ]


def _utility() -> list[Metric]:
    rows = []
    for score, (label, better) in UTILITY_SCORES.items():
        for condition, words in SHARE_CONDITIONS.items():
            headline = score == "dice" and condition == "gain"
            rows += [
                Metric(
                    utility_metric(score, condition, percent),
                    "utility",
                    f"{label}, {words}, {percent} %",
                    better,
                    headline,
                )
                for percent in range(1, 101)
            ]
        for condition, words in WHOLE_CONDITIONS.items():
            # A segmenter of real slices that scores better on samples than on held-out slices finds them too easy.
            direction = "floor" if condition == "trts" else better
            name = utility_metric(score, condition)
            rows.append(Metric(name, "utility", f"{label}, {words}", direction, score == "dice"))
    return rows


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "kid",
            "image",
            "KID",
            "lower",
            headline=True,
            anchor=("kid_blurred", "held-out slices, blurred"),
            by_z_bin=True,
        ),
        Metric("kid_blurred", "image", "KID of blurred held-out slices"),
        Metric("fid", "image", "FID", "lower", headline=True),
        Metric("precision", "image", "Precision", "higher", headline=True, share=True, by_z_bin=True),
        Metric("recall", "image", "Recall", "higher", headline=True, share=True, by_z_bin=True),
        Metric("lpips", "image", "LPIPS to held-out", "floor", headline=True, by_z_bin=True),
        Metric("lpips_diversity", "image", "LPIPS among samples", "floor", headline=True),
        Metric(
            "spectrum", "image", "Radial spectrum, difference [dB]", "lower", headline=True, by_z_bin=True
        ),
        Metric("brain_histogram", "image", "Brain histogram, W1", "lower", headline=True, by_z_bin=True),
        Metric(
            "outline_share",
            "image",
            "Brain outlines in range, share",
            "higher",
            headline=True,
            share=True,
            by_z_bin=True,
        ),
        Metric("kid_ref", "image", "KID, published procedure", "lower"),
        Metric("lpips_ref", "image", "LPIPS, published procedure", "floor"),
        Metric("mmd_mf", "mask", "MMD-MF", "lower", headline=True),
        Metric("mmd_mf_clipped", "mask", "MMD-MF, robust scores", "lower"),
        Metric("mmd_mf_w1", "mask", "MMD-MF features, W1", "lower", headline=True),
        *_features("mask", "mmd_mf", SHAPE_FEATURES),
        Metric("mmd_robust", "mask", "Robust MMD of lesion slices", "lower", headline=True),
        Metric("mmd_robust_p", "mask", "Robust MMD, permutation p"),
        Metric("mask_undecided", "mask", "Undecided mask pixels, share", "lower", headline=True),
        Metric("mmd_pl", "pair", "MMD-PL", "lower", headline=True),
        Metric("mmd_pl_clipped", "pair", "MMD-PL, robust scores", "lower"),
        Metric("mmd_pl_w1", "pair", "MMD-PL features, W1", "lower", headline=True),
        *_features("pair", "mmd_pl", CONTRAST_FEATURES),
        Metric(
            "delta_median",
            "pair",
            "Lesion contrast Δ, median",
            "floor",
            headline=True,
            anchor=("delta_median_shuffled", "masks shuffled"),
        ),
        Metric("delta_median_shuffled", "pair", "Lesion contrast Δ, masks shuffled"),
        Metric("frac_bright", "pair", "Bright lesion pixels, share", "floor", headline=True),
        Metric("frac_bright_gap", "pair", "Bright lesion pixels − held-out", "zero"),
        Metric(
            "lesion_share_class1",
            "control",
            "Lesion present, lesion class",
            "higher",
            headline=True,
            share=True,
            by_z_bin=True,
        ),
        Metric(
            "lesion_share_class0",
            "control",
            "Lesion present, control class",
            "lower",
            headline=True,
            share=True,
            by_z_bin=True,
        ),
        Metric("lesion_area", "control", "Lesion area [px]", "floor", by_z_bin=True),
        Metric("lesion_area_gap", "control", "Lesion area, log2 ratio by z-bin", "zero", headline=True),
        Metric("centroid_distance", "control", "Lesion centroids, distance [mm]", "lower", headline=True),
        Metric("lesion_left_gap", "control", "Left lesions, share − held-out", "zero", headline=True),
        Metric(
            "memorisation_ratio", "memorisation", "Distance ratio R", "floor", headline=True, by_z_bin=True
        ),
        Metric("suspect_share", "memorisation", "Suspected copies, share", "lower", headline=True),
        Metric("suspect_share_check", "memorisation", "Unseen slices flagged, share", "floor"),
        Metric("suspect_share_ref", "memorisation", "Closer than any held-out slice, share", "lower"),
        Metric("memorisation_w1", "memorisation", "W1 of the distances", "lower"),
        Metric("outlier_share", "outliers", "Outliers among the samples, share", "lower", headline=True),
        Metric("kid_worst_site", "sites", "KID of the worst site", "lower"),
        Metric("mmd_mf_w1_worst_site", "sites", "MMD-MF features, W1, of the worst site", "lower"),
        *_utility(),
    )
}
"""Name to metric, in the order of all tables; utility for every whole percent of the training subjects."""
_POSITION = {name: position for position, name in enumerate(METRICS)}


def describe(name: str) -> Metric:
    """The metric of this name.

    Raises:
        ValueError: the registry has no such metric.
    """
    if name not in METRICS:
        raise ValueError(
            f"metric {name}: expected a metric of slimdiff/evaluation/registry.py, found no row of this name; add a "
            "row, or compute the metrics again with this version"
        )
    return METRICS[name]


def better(name: str) -> str:
    """`lower`, `higher`, `floor`, `zero`, or `none` for controls that are no score."""
    return describe(name).better


def heading(name: str, extractor: str | None = None) -> str:
    """Label, direction and extractor: 'KID ↓ (alexnet)'. A number is never shown without its extractor."""
    metric = describe(name)
    parts = [metric.label, SYMBOLS[metric.better], f"({extractor})" if extractor else ""]
    return " ".join(part for part in parts if part)


def order(name: str) -> tuple[int, int]:
    """Sorting key: the axis, then the place in METRICS."""
    return list(AXES).index(describe(name).axis), _POSITION[name]
