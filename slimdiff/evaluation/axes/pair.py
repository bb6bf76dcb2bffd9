"""The pair axis: whether masks lie on tissue that looks like a lesion, with floors and intervals."""

from collections.abc import Sequence

import numpy as np

from slimdiff.evaluation.axes.floor import mean_floor
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation, joined
from slimdiff.evaluation.axes.mask import feature_rows
from slimdiff.evaluation.metrics import lesion_contrast
from slimdiff.evaluation.statistics import bootstrap
from slimdiff.stored_rows import ChosenRows, Rows

OWN = "floor column: value of the held-out slices; interval over lesions of this model"


def pair_axis(evaluation: FoldEvaluation) -> None:
    """MMD-PL, the Wasserstein distances of its features, lesion contrast before and after shuffling, brightness."""
    config, store, samples = evaluation.config, evaluation.store, evaluation.samples
    options = {
        "tau": config.tau,
        "min_px": evaluation.min_px,
        "min_slice_px": evaluation.min_slice_px,
        "ring_px": evaluation.ring_px,
    }
    test, slices = lesion_contrast.pair_features(*evaluation.real(evaluation.lesion_rows), **options)
    test_rows = evaluation.lesion_rows[slices]
    table, of_slice = lesion_contrast.pair_features(*evaluation.real(evaluation.train), **options)
    training = [table[own] for own in evaluation.in_floor(of_slice)]
    chosen = evaluation.lesion_selection.samples
    drawn, drawn_slices = lesion_contrast.pair_features(
        *(ChosenRows(part, chosen) for part in (samples.images, samples.masks)), **options
    )
    feature_rows(evaluation, "mmd_pl", lesion_contrast.FEATURES, test, drawn, training, test_rows)

    delta = lesion_contrast.FEATURES.index("delta")
    _add_median(evaluation, "delta_median", drawn[:, delta], test[:, delta], OWN)
    # Lesions in the held-out mix, and all lesion-free slices to which they can move.
    clean = evaluation.test[store.label[evaluation.test] == 0]
    held_out = np.union1d(evaluation.lesion_rows, clean)
    synthetic = np.union1d(chosen, np.flatnonzero(samples.label == 0))
    swapped = [
        lesion_contrast.pair_features(*swap_onto_clean(*columns, config.seed), **options)[0][:, delta]
        for columns in (
            [
                *(ChosenRows(part, synthetic) for part in (samples.images, samples.masks)),
                *(part[synthetic] for part in (samples.z_bin, samples.label)),
            ],
            [*evaluation.real(held_out), store.z_bin[held_out], store.label[held_out]],
        )
    ]
    _add_median(
        evaluation,
        "delta_median_shuffled",
        *swapped,
        f"masks on other, lesion-free slices of their z-bin; {OWN}",
    )
    _brightness(evaluation, test, drawn, training, test_rows, samples.id[chosen][drawn_slices])


def _add_median(
    evaluation: FoldEvaluation, name: str, drawn: np.ndarray, real: np.ndarray, note: str
) -> None:
    value, floor = (np.median(values) if len(values) else np.nan for values in (drawn, real))
    interval = bootstrap.sample_median_interval(drawn, evaluation.config.bootstrap, evaluation.config.seed)
    note = joined(note, evaluation.lesion_selection.note)
    evaluation.add(name, value, interval=interval, floor=floor, n=len(drawn), reason=note)


def _brightness(
    evaluation: FoldEvaluation,
    test: np.ndarray,
    drawn: np.ndarray,
    training: Sequence[np.ndarray],
    test_rows: np.ndarray,
    sample_ids: np.ndarray,
) -> None:
    """Mean `frac_bright`, and its difference from the held-out lesions."""
    column = lesion_contrast.FEATURES.index("frac_bright")
    value, real = (lesion_contrast.mean_frac_bright(table) for table in (drawn, test))
    trained, spread = mean_floor([lesion_contrast.mean_frac_bright(table) for table in training])
    config, used = evaluation.config, evaluation.lesion_selection.note
    evaluation.add(
        "frac_bright",
        value,
        interval=bootstrap.sample_mean_interval(drawn[:, column], sample_ids, config.bootstrap, config.seed),
        floor=real,
        n=len(drawn),
        reason=joined(
            "floor column: value of the held-out slices; interval over samples of this model", used
        ),
    )
    resampling = evaluation.resampling(test_rows)
    resampled = bootstrap.resampled_means(test[:, column], resampling.index, resampling.counts)
    evaluation.add(
        "frac_bright_gap",
        value - real,
        interval=resampling.percentile(value - resampled),
        floor=trained - real,
        n=len(drawn),
        reason=joined("samples minus held-out lesions", used, spread),
    )


def swap_onto_clean(
    images: np.ndarray | Rows,
    masks: np.ndarray | Rows,
    bins: np.ndarray,
    labels: np.ndarray,
    seed: int,
) -> tuple[Rows, Rows]:
    """Move every lesion mask to a random lesion-free slice of the same z-bin.

    If a mask belongs to its image, it loses its contrast. If it only lies where lesions are frequent, it keeps
    its contrast. Only lesion-free slices are used, because lesions of one z-bin may overlap.

    Args:
        images, masks: (N, H, W).
        bins, labels: (N,) z-bin and class.
        seed: seed of the random choice.

    Returns:
        Images and masks (M, H, W); masks without a lesion-free slice in their z-bin are left out.
    """
    rng = np.random.default_rng(seed)
    of_mask, of_image = [], []
    clean_of = {z_bin: np.flatnonzero((labels == 0) & (bins == z_bin)) for z_bin in np.unique(bins)}
    for row in np.flatnonzero(labels == 1):
        clean = clean_of[bins[row]]
        if len(clean):
            of_mask.append(row)
            of_image.append(rng.choice(clean))
    chosen, others = np.array(of_mask, np.int64), np.array(of_image, np.int64)
    return ChosenRows(images, others), ChosenRows(masks, chosen)
