"""What every metric is called and on which axis it belongs: one place for all figures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slimdiff.evaluation.metrics import components, lesion_contrast
from slimdiff.evaluation.registry import better
from slimdiff.report import utility_names

AXES = {
    "image": "Images",
    "mask": "Lesion masks",
    "pair": "Image and mask together",
    "control": "Obedience to the class",
    "memorisation": "Memorisation of training slices",
    "utility": "Usefulness for a segmenter",
    "other": "Other",
}
SYMBOLS = {"lower": "↓", "higher": "↑", "floor": "≈", "zero": "→ 0", "none": ""}
SYMBOLS_READ = "↓ lower is better, ↑ higher, ≈ closer to the floor, → 0 closer to 0"
FLOOR_READ = (
    "Floor: the same metric with training slices in the place of samples, or the held-out slices' own value; "
    "for class shares and R the value that is right, for suspects and their distances the halves of the held-out "
    "subjects against each other; for usefulness the segmenter of real slices alone"
)


@dataclass(frozen=True)
class Metric:
    """How one metric is shown."""

    axis: str
    """Key of AXES."""
    label: str
    headline: bool = False
    """Whether it has a panel of its own beside the other variants."""
    anchor: tuple[str, str] | None = None
    """Another metric on the same scale, marked in its panel, and what it is."""
    share: bool = False
    """Whether its panel spans 0 to 1."""
    better: str = "none"
    """Key of SYMBOLS, from `directions`."""


def _features(axis: str, metric: str, names: Sequence[str]) -> dict[str, Metric]:
    title = metric.replace("_", "-").upper()
    return {f"{metric}_w1_{name}": Metric(axis, f"{title}, W1 of {name.replace('_', ' ')}") for name in names}


METRICS = {
    "kid": Metric("image", "KID", True, ("kid_blurred", "held-out slices, blurred")),
    "kid_blurred": Metric("image", "KID of blurred held-out slices"),
    "fid": Metric("image", "FID", True),
    "precision": Metric("image", "Precision", True, share=True),
    "recall": Metric("image", "Recall", True, share=True),
    "lpips": Metric("image", "LPIPS to held-out", True),
    "lpips_diversity": Metric("image", "LPIPS among samples", True),
    "spectrum": Metric("image", "Radial spectrum, difference [dB]", True),
    "brain_histogram": Metric("image", "Brain histogram, W1", True),
    "kid_ref": Metric("image", "KID, the reference's way"),
    "lpips_ref": Metric("image", "LPIPS, the reference's way"),
    "mmd_mf": Metric("mask", "MMD-MF", True),
    "mmd_mf_w1": Metric("mask", "MMD-MF features, W1", True),
    **_features("mask", "mmd_mf", components.FEATURES),
    "mmd_robust": Metric("mask", "Robust MMD of lesion slices", True),
    "mmd_robust_p": Metric("mask", "Robust MMD, permutation p"),
    "mask_undecided": Metric("mask", "Undecided mask pixels", True),
    "mmd_pl": Metric("pair", "MMD-PL", True),
    "mmd_pl_w1": Metric("pair", "MMD-PL features, W1", True),
    **_features("pair", "mmd_pl", lesion_contrast.FEATURES),
    "delta_median": Metric(
        "pair", "Lesion contrast Δ, median", True, ("delta_median_shuffled", "masks shuffled")
    ),
    "delta_median_shuffled": Metric("pair", "Lesion contrast Δ, masks shuffled"),
    "frac_bright": Metric("pair", "Bright share of the lesion", True),
    "frac_bright_gap": Metric("pair", "Bright share, samples − held-out"),
    "lesion_share_class1": Metric("control", "Lesion when asked for", True, share=True),
    "lesion_share_class0": Metric("control", "Lesion when not asked for", True, share=True),
    "lesion_area": Metric("control", "Lesion area [px]"),
    "lesion_area_gap": Metric("control", "Lesion area, log2 ratio by height", True),
    "centroid_distance": Metric("control", "Lesion centroids, distance [mm]", True),
    "lesion_left_gap": Metric("control", "Left lesions, share − held-out", True),
    "memorisation_ratio": Metric("memorisation", "Distance ratio R", True),
    "suspect_share": Metric("memorisation", "Suspected copies, share", True),
    "suspect_share_check": Metric("memorisation", "Unseen slices flagged, share (right: 1 %)"),
    "suspect_share_ref": Metric("memorisation", "Closer than any held-out slice, share"),
    "memorisation_w1": Metric("memorisation", "W1 of the distances"),
}


def describe(metric: str) -> Metric:
    """How a metric is shown; one that nobody has described keeps its own name."""
    entry = METRICS.get(metric, Metric("other", metric))
    if found := utility_names.parse(metric):
        label, headline, _ = found
        entry = Metric("utility", label, headline)
    return replace(entry, better=better(metric))


def heading(metric: str, extractor: str | None = None) -> str:
    """Label, direction and extractor: 'KID ↓ (alexnet)'. A number is never shown without its extractor."""
    entry = describe(metric)
    parts = [entry.label, SYMBOLS[entry.better], f"({extractor})" if extractor else ""]
    return " ".join(part for part in parts if part)


def order(metric: str) -> tuple[int, tuple[int, ...], str]:
    """Sorting key: axis, then the order of METRICS, or of usefulness by score, condition and share."""
    names = list(METRICS)
    place = (names.index(metric) if metric in METRICS else len(names),)
    if found := utility_names.parse(metric):
        place = found[2]
    return list(AXES).index(describe(metric).axis), place, metric
