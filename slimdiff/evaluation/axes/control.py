"""The control axis: whether samples are what was asked for, and their lesions as large and where real ones are."""

import numpy as np

from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.metrics import lesions
from slimdiff.evaluation.metrics.components import components_of
from slimdiff.evaluation.metrics.lesions import binarise
from slimdiff.evaluation.metrics.mmd import MIN_VECTORS
from slimdiff.evaluation.statistics import bootstrap

MODEL = "interval over samples of this model"


def control_axis(cell: FoldEvaluation) -> None:
    """Class fidelity and lesion area, overall and a z-bin; where lesions lie, left or right and in the plane."""
    _classes(cell)
    _areas(cell)
    _places(cell)


def _classes(cell: FoldEvaluation) -> None:
    samples = cell.samples
    lesion = lesions.has_lesion(samples.masks, cell.config.tau, cell.min_px)
    for z_bin in ("all", *range(cell.store.n_bins)):
        own = (samples.z_bin == z_bin) | (z_bin == "all")
        for label, right in ((0, 0.0), (1, 1.0)):
            with_lesion = lesion[own & (samples.label == label)]
            value = float(with_lesion.mean()) if len(with_lesion) else np.nan
            cell.add(
                f"lesion_share_class{label}",
                value,
                z_bin,
                interval=bootstrap.share_interval(int(with_lesion.sum()), len(with_lesion)),
                floor=right,
                n=len(with_lesion),
                note=MODEL,
            )


def _areas(cell: FoldEvaluation) -> None:
    """Median lesion area a z-bin, and over all of them by how many doublings samples are larger."""
    store, samples, config = cell.store, cell.samples, cell.config
    asked = np.flatnonzero(samples.label == 1)
    rule = {"tau": config.tau, "min_px": cell.min_px, "min_slice_px": cell.min_slice_px}
    drawn = lesions.lesion_area(samples.masks[asked], **rule)
    test, like = (lesions.lesion_area(cell.real(rows)[1], **rule) for rows in (cell.test, cell.like))
    sets = [
        (areas[areas > 0], bins[areas > 0])
        for areas, bins in (
            (drawn, samples.z_bin[asked]),
            (test, store.z_bin[cell.test]),
            (like, store.z_bin[cell.like]),
        )
    ]
    for z_bin in range(store.n_bins):
        own, real = (areas[bins == z_bin] for areas, bins in sets[:2])
        cell.add(
            "lesion_area",
            np.median(own) if len(own) else np.nan,
            z_bin,
            interval=bootstrap.sample_median_interval(own, config.bootstrap, config.seed),
            floor=np.median(real) if len(real) else np.nan,
            n=len(own),
            note=f"median px; floor column: the held-out slices' own, of {len(real)}; {MODEL}",
        )
    real_rows = cell.test[test > 0]
    resampling = cell.resampling(real_rows)
    value, floor = (lesions.area_gap(*sets[1], *other) for other in (sets[0], sets[2]))
    resampled = lesions.resampled_area_gap(*sets[1], *sets[0], resampling.index, resampling.counts)
    note = (
        "mean over z-bins of log2 (median of samples / median held out); floor: training slices for samples"
    )
    cell.add(
        "lesion_area_gap",
        value,
        interval=resampling.percentile(resampled),
        floor=floor,
        n=len(sets[0][0]),
        note=note if np.isfinite(value) else "no z-bin with lesions of both; one wanted",
    )


def _places(cell: FoldEvaluation) -> None:
    samples, spacing = cell.samples, cell.store.spacing_mm
    asked = np.flatnonzero(samples.label == 1)

    def places(images: np.ndarray, lesion_masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = components_of(binarise(lesion_masks, cell.config.tau), cell.min_px, cell.min_slice_px)
        return lesions.positions(found.centroids, found.slices, images, spacing), found.slices

    drawn, _ = places(samples.images[asked], samples.masks[asked])
    test, slices = places(*cell.real(cell.test))
    like, _ = places(*cell.real(cell.like))
    resampling = cell.resampling(cell.test[slices])
    resampled = lesions.resampled_energy_distance(test, drawn, resampling.index, resampling.counts)
    note = f"mm, between {len(test)} real and {len(drawn)} synthetic centroids in the plane"
    if min(len(test), len(drawn)) < MIN_VECTORS:
        note += f"; {MIN_VECTORS} of each wanted"
    cell.add(
        "centroid_distance",
        lesions.energy_distance(test, drawn),
        interval=resampling.percentile(resampled),
        floor=lesions.energy_distance(test, like),
        n=len(drawn),
        note=note,
    )
    value, real, trained = (lesions.left_share(found) for found in (drawn, test, like))
    resampled = bootstrap.resampled_means(test[:, 0] < 0, resampling.index, resampling.counts)
    cell.add(
        "lesion_left_gap",
        value - real,
        interval=resampling.percentile(value - resampled),
        floor=trained - real,
        n=len(drawn),
        note=f"share of lesions left of the middle, samples ({value:.2f}) minus held out ({real:.2f}); "
        f"floor: training ({trained:.2f}) minus held out",
    )
