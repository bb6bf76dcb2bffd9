"""The control axis: class fidelity, and size and position of lesions compared with real ones."""

import numpy as np

from slimdiff.evaluation.axes.floor import mean_floor
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation, joined
from slimdiff.evaluation.metrics import binary_masks, lesions
from slimdiff.evaluation.metrics.mmd import MIN_VECTORS
from slimdiff.evaluation.statistics import bootstrap
from slimdiff.stored_rows import ChosenRows, Rows

MODEL = "interval over samples of this model"


def no_sample(label: int, z_bin: int | str) -> str:
    """Why there is no value for a z-bin, or for all."""
    where = "any z-bin" if z_bin == "all" else "this z-bin"
    return f"no sample of class {label} in {where} (generation.where, generation.counts)"


def control_axis(evaluation: FoldEvaluation) -> None:
    """Class fidelity and lesion area, overall and per z-bin; position of lesions in the plane, and left or right."""
    _classes(evaluation)
    _areas(evaluation)
    _places(evaluation)


def _classes(evaluation: FoldEvaluation) -> None:
    samples = evaluation.samples
    lesion = binary_masks.has_lesion(samples.masks, evaluation.config.tau, evaluation.min_px)
    left_out = evaluation.lesion_selection.left_out
    for z_bin in ("all", *range(evaluation.store.n_bins)):
        own = (samples.z_bin == z_bin) | (z_bin == "all")
        for label, right in ((0, 0.0), (1, 1.0)):
            with_lesion = lesion[own & (samples.label == label)]
            value = float(with_lesion.mean()) if len(with_lesion) else np.nan
            evaluation.add(
                f"lesion_share_class{label}",
                value,
                z_bin,
                interval=bootstrap.share_interval(int(with_lesion.sum()), len(with_lesion)),
                floor=right,
                n=len(with_lesion),
                reason=joined(MODEL, left_out if z_bin == "all" and label else "")
                if len(with_lesion)
                else no_sample(label, z_bin),
            )


def _areas(evaluation: FoldEvaluation) -> None:
    """Median lesion area per z-bin, and the mean log2 ratio of samples to held-out slices over z-bins."""
    store, samples, config = evaluation.store, evaluation.samples, evaluation.config
    lesion_rows = np.flatnonzero(samples.label == 1)
    rule = {"tau": config.tau, "min_px": evaluation.min_px, "min_slice_px": evaluation.min_slice_px}
    drawn = binary_masks.lesion_area(ChosenRows(samples.masks, lesion_rows), **rule)
    test, training = (
        binary_masks.lesion_area(evaluation.real(rows)[1], **rule)
        for rows in (evaluation.test, evaluation.train)
    )
    of_samples, of_test, of_training = (
        (areas[areas > 0], bins[areas > 0])
        for areas, bins in (
            (drawn, samples.z_bin[lesion_rows]),
            (test, store.z_bin[evaluation.test]),
            (training, store.z_bin[evaluation.train]),
        )
    )
    for z_bin in range(store.n_bins):
        own, real = (areas[bins == z_bin] for areas, bins in (of_samples, of_test))
        evaluation.add(
            "lesion_area",
            np.median(own) if len(own) else np.nan,
            z_bin,
            interval=bootstrap.sample_median_interval(own, config.bootstrap, config.seed),
            floor=np.median(real) if len(real) else np.nan,
            n=len(own),
            reason=f"median px; floor column: median of {len(real)} held-out slices; "
            + (MODEL if (samples.z_bin[lesion_rows] == z_bin).any() else no_sample(1, z_bin)),
        )
    # Z-bins have the weights of the held-out slices, so all samples and training slices can be used.
    resampling = evaluation.resampling(evaluation.test[test > 0])
    value = lesions.area_gap(*of_test, *of_samples)
    resampled = lesions.resampled_area_gap(*of_test, *of_samples, resampling.index, resampling.counts)
    evaluation.add(
        "lesion_area_gap",
        value,
        interval=resampling.percentile(resampled),
        floor=lesions.area_gap(*of_test, *of_training),
        n=len(of_samples[0]),
        reason=joined(
            "mean over z-bins, weighted by held-out lesion slices, of log2 (median of samples / median held out)",
            "all samples of the lesion class are used",
            "floor: all training slices",
            evaluation.lesion_selection.left_out,
        )
        if np.isfinite(value)
        else "no z-bin with lesions in both sets; at least one is required",
    )


def _places(evaluation: FoldEvaluation) -> None:
    samples, spacing = evaluation.samples, evaluation.store.spacing_mm
    chosen = evaluation.lesion_selection

    def places(images: Rows, lesion_masks: Rows) -> tuple[np.ndarray, np.ndarray]:
        found = binary_masks.binary_components(
            lesion_masks, evaluation.config.tau, evaluation.min_px, evaluation.min_slice_px
        )
        return lesions.positions(found.centroids, found.slices, images, spacing), found.slices

    drawn, _ = places(*(ChosenRows(part, chosen.samples) for part in (samples.images, samples.masks)))
    test, slices = places(*evaluation.real(evaluation.lesion_rows))
    training, of_slice = places(*evaluation.real(evaluation.train))
    choices = [training[own] for own in evaluation.in_floor(of_slice)]
    resampling = evaluation.resampling(evaluation.lesion_rows[slices])
    resampled = lesions.resampled_energy_distance(test, drawn, resampling.index, resampling.counts)
    note = f"mm, between {len(test)} real and {len(drawn)} synthetic centroids in the plane"
    if min(len(test), len(drawn)) < MIN_VECTORS:
        note += f"; at least {MIN_VECTORS} of each are required"
    floor, spread = mean_floor([lesions.energy_distance(test, choice) for choice in choices])
    evaluation.add(
        "centroid_distance",
        lesions.energy_distance(test, drawn),
        interval=resampling.percentile(resampled),
        floor=floor,
        n=len(drawn),
        reason=joined(note, chosen.note, spread),
    )
    value, real = (lesions.left_share(found) for found in (drawn, test))
    trained, _ = mean_floor([lesions.left_share(choice) for choice in choices])
    resampled = bootstrap.resampled_means(test[:, 0] < 0, resampling.index, resampling.counts)
    evaluation.add(
        "lesion_left_gap",
        value - real,
        interval=resampling.percentile(value - resampled),
        floor=trained - real,
        n=len(drawn),
        reason=joined(
            f"share of lesions left of the midline, samples ({value:.2f}) minus held out ({real:.2f})",
            f"floor: training ({trained:.2f}) minus held out",
            chosen.note,
        ),
    )
