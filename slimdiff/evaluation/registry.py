"""Which way each metric is better: comparisons of variants and the report both need it."""

BETTER = {
    "kid": "lower",
    "kid_ref": "lower",
    "fid": "lower",
    "precision": "higher",
    "recall": "higher",
    "lpips": "floor",
    "lpips_ref": "floor",
    "lpips_diversity": "floor",
    "spectrum": "lower",
    "brain_histogram": "lower",
    "mmd_mf": "lower",
    "mmd_mf_w1": "lower",
    "mmd_robust": "lower",
    "mask_undecided": "lower",
    "mmd_pl": "lower",
    "mmd_pl_w1": "lower",
    "delta_median": "floor",
    "frac_bright": "floor",
    "frac_bright_gap": "zero",
    "lesion_share_class1": "higher",
    "lesion_share_class0": "lower",
    "lesion_area": "floor",
    "lesion_area_gap": "zero",
    "centroid_distance": "lower",
    "lesion_left_gap": "zero",
    "memorisation_ratio": "floor",
    "suspect_share": "lower",
    "suspect_share_check": "floor",
    "suspect_share_ref": "lower",
    "memorisation_w1": "lower",
}
"""`lower`, `higher`, `floor` or `zero`: the closer to it the better. Metrics that are no score are left out."""

FAMILIES = {
    "mmd_mf_w1_": "lower",
    "mmd_pl_w1_": "lower",
    "utility_dice_": "higher",
    "utility_sensitivity_": "higher",
    "utility_false_positive": "lower",
}
"""The same for all metrics that begin so."""


def better(metric: str) -> str:
    """`lower`, `higher`, `floor`, `zero`, or `none` for controls that are no score."""
    if metric in BETTER:
        return BETTER[metric]
    if metric.startswith("utility_") and metric.endswith("_trts"):
        # A segmenter of real slices that does better on samples than on held-out slices finds them too easy.
        return "floor"
    return next((way for start, way in FAMILIES.items() if metric.startswith(start)), "none")
