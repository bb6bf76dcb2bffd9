"""What every metric is called, which direction is better, and on which axis it belongs: one place for all figures."""

from dataclasses import dataclass

AXES = {
    "image": "Images",
    "mask": "Lesion masks",
    "pair": "Image and mask together",
    "control": "Obedience to the class",
    "memorisation": "Memorisation of training slices",
    "other": "Other",
}
SYMBOLS = {"lower": "↓", "higher": "↑", "floor": "≈", "none": ""}
SYMBOLS_READ = "↓ lower is better, ↑ higher is better, ≈ the closer to the floor the better"
FLOOR_READ = (
    "Floor: the same metric between training and held-out subjects, or the held-out slices' own value; "
    "for class shares and memorisation the value that is right"
)


@dataclass(frozen=True)
class Metric:
    """How one metric is shown."""

    axis: str
    """Key of AXES."""
    label: str
    better: str = "none"
    """Key of SYMBOLS; `none` for controls that are no score."""
    headline: bool = False
    """Whether it has a panel of its own beside the other variants."""
    anchor: tuple[str, str] | None = None
    """Another metric on the same scale, marked in its panel, and what it is."""
    share: bool = False
    """Whether its panel spans 0 to 1."""


METRICS = {
    "kid": Metric("image", "KID", "lower", True, ("kid_blurred", "held-out slices, blurred")),
    "kid_blurred": Metric("image", "KID of blurred held-out slices"),
    "fid": Metric("image", "FID", "lower", True),
    "precision": Metric("image", "Precision", "higher", True, share=True),
    "recall": Metric("image", "Recall", "higher", True, share=True),
    "lpips": Metric("image", "LPIPS to held-out", "floor", True),
    "lpips_diversity": Metric("image", "LPIPS among samples", "floor", True),
    "mmd_mf": Metric("mask", "MMD-MF", "lower", True),
    "mmd_mf_w1": Metric("mask", "MMD-MF features, W1", "lower", True),
    "mask_undecided": Metric("mask", "Undecided mask pixels", "lower", True),
    "mmd_pl": Metric("pair", "MMD-PL", "lower", True),
    "mmd_pl_w1": Metric("pair", "MMD-PL features, W1", "lower", True),
    "delta_median": Metric(
        "pair", "Lesion contrast Δ, median", "floor", True, ("delta_median_shuffled", "masks shuffled")
    ),
    "delta_median_shuffled": Metric("pair", "Lesion contrast Δ, masks shuffled"),
    "frac_bright": Metric("pair", "Bright share of the lesion", "floor", True),
    "lesion_share_class1": Metric("control", "Lesion when asked for", "higher", True, share=True),
    "lesion_share_class0": Metric("control", "Lesion when not asked for", "lower", True, share=True),
    "lesion_area": Metric("control", "Lesion area [px]", "floor"),
    "memorisation_ratio": Metric("memorisation", "Distance ratio R", "floor", True),
    "suspect_share": Metric("memorisation", "Suspected copies, share", "lower", True),
    "suspect_share_ref": Metric("memorisation", "Closer than any held-out slice, share", "lower"),
    "memorisation_w1": Metric("memorisation", "W1 of the distances", "lower"),
}


def describe(metric: str) -> Metric:
    """How a metric is shown; one that nobody has described keeps its own name."""
    return METRICS.get(metric, Metric("other", metric))


def heading(metric: str, extractor: str | None = None) -> str:
    """Label, direction and extractor: 'KID ↓ (alexnet)'. A number is never shown without its extractor."""
    entry = describe(metric)
    parts = [entry.label, SYMBOLS[entry.better], f"({extractor})" if extractor else ""]
    return " ".join(part for part in parts if part)


def order(metric: str) -> tuple[int, int, str]:
    """Sorting key: axis, then the order of METRICS."""
    names = list(METRICS)
    position = names.index(metric) if metric in METRICS else len(names)
    return list(AXES).index(describe(metric).axis), position, metric
