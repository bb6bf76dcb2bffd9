"""The lesion axes: shapes, contrast and class fidelity of a cell, beside floors and intervals."""

import numpy as np

from slimdiff.evaluation import control, kernels, masks, pairs, statistics
from slimdiff.evaluation.cell import Cell


def mask_axis(cell: Cell) -> None:
    """Lesion shapes: MMD-MF and Wasserstein-1 of nine features, and how decided the masks are."""
    config, store = cell.config, cell.store
    options = {"tau": config.tau, "min_px": cell.min_px, "min_slice_px": cell.min_slice_px}
    test, slices = masks.component_features(cell.real(cell.test)[1], **options)
    train, _ = masks.component_features(cell.real(cell.train)[1], **options)
    lesioned = cell.samples.label == 1
    drawn, _ = masks.component_features(cell.samples.masks[lesioned], **options)
    _feature_distance(cell, "mmd_mf", masks.mmd_mf, test, train, drawn, store.participant[cell.test][slices])
    cell.add(
        "mask_undecided", masks.undecided_share(cell.samples.masks), floor=0.0, n=len(cell.samples.masks)
    )


def pair_axis(cell: Cell) -> None:
    """Whether masks sit on tissue that looks like a lesion: MMD-PL, its contrast, and the same after shuffling."""
    config, store, samples = cell.config, cell.store, cell.samples
    options = {
        "tau": config.tau,
        "min_px": cell.min_px,
        "min_slice_px": cell.min_slice_px,
        "ring_px": cell.ring_px,
    }
    test, slices = pairs.pair_features(*cell.real(cell.test), **options)
    train, _ = pairs.pair_features(*cell.real(cell.train), **options)
    chosen = np.flatnonzero(samples.label == 1)
    drawn, _ = pairs.pair_features(samples.images[chosen], samples.masks[chosen], **options)
    _feature_distance(cell, "mmd_pl", pairs.mmd_pl, test, train, drawn, store.participant[cell.test][slices])
    delta = pairs.FEATURES.index("delta")
    _add_median(cell, "delta_median", drawn, test, delta, "floor column: the held-out slices' own")
    swapped = [
        pairs.pair_features(*swap_onto_clean(images, binary, bins, labels, config.seed), **options)[0]
        for images, binary, bins, labels in (
            (samples.images, samples.masks, samples.z_bin, samples.label),
            (*cell.real(cell.test), store.z_bin[cell.test], store.label[cell.test]),
        )
    ]
    note = "masks on other, lesion-free slices of their z-bin; floor column: the held-out slices' own"
    _add_median(cell, "delta_median_shuffled", *swapped, delta, note)
    value, floor = pairs.mean_frac_bright(drawn), pairs.mean_frac_bright(test)
    cell.add("frac_bright", value, floor=floor, n=len(drawn), note="floor column: the held-out slices' own")


def _add_median(cell: Cell, name: str, drawn: np.ndarray, real: np.ndarray, column: int, note: str) -> None:
    value, floor = (np.median(table[:, column]) if len(table) else np.nan for table in (drawn, real))
    cell.add(name, value, floor=floor, n=len(drawn), note=note)


def swap_onto_clean(
    images: np.ndarray, masks: np.ndarray, bins: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put every lesion mask on a random slice without lesion of the same z-bin.

    A mask that belongs to its image loses its contrast by this; one that merely lies where lesions tend to lie
    keeps it. Only lesion-free slices are taken, because lesions of one z-bin may lie at the same place.

    Args:
        images, masks: (N, H, W).
        bins, labels: (N,) z-bin and class.
        seed: of the draw.

    Returns:
        images and masks (M, H, W); masks whose z-bin has no lesion-free slice are left out.
    """
    rng = np.random.default_rng(seed)
    of_mask, of_image = [], []
    for row in np.flatnonzero(labels == 1):
        clean = np.flatnonzero((labels == 0) & (bins == bins[row]))
        if len(clean):
            of_mask.append(row)
            of_image.append(rng.choice(clean))
    chosen, others = np.array(of_mask, np.int64), np.array(of_image, np.int64)
    return images[others], masks[chosen]


def _feature_distance(cell: Cell, name: str, distance, test, train, drawn, subjects) -> None:
    config = cell.config
    answer = distance(test, drawn, config.seed, config.subsets)

    def mmd(real, synthetic):
        return distance(real, synthetic, config.seed, config.subsets).mmd.value

    def w1(real, synthetic):
        return distance(real, synthetic, config.seed, 1).w1_geometric_mean

    interval = None
    note = f"{len(test)} real and {len(drawn)} synthetic components"
    if len(test) >= kernels.FEWEST and len(drawn) >= kernels.FEWEST:
        index, n_subjects = statistics.subject_indices(subjects)
        counts = statistics.resample_counts(n_subjects, config.bootstrap, config.seed)
        resampled = kernels.resampled_mmd2(*kernels.standardise(test, drawn), index, counts)
        interval = statistics.percentile_interval(resampled, n_subjects)
    else:
        note += f"; {kernels.FEWEST} of each wanted"
    floor = statistics.floor(mmd, test, train, len(drawn), config.seed)
    cell.add(name, answer.mmd.value, interval=interval, floor=floor, n=len(drawn), note=note)
    if len(test) and len(drawn):
        floor = statistics.floor(w1, test, train, len(drawn), config.seed)
        cell.add(
            f"{name}_w1",
            answer.w1_geometric_mean,
            floor=floor,
            n=len(drawn),
            note="in real standard deviations",
        )
    else:
        cell.add(f"{name}_w1", np.nan, n=len(drawn), note=note)


def control_axis(cell: Cell) -> None:
    """Whether samples are what was asked for, overall and a z-bin."""
    config, store, samples = cell.config, cell.store, cell.samples
    area = control.area_by_bin(
        cell.real(cell.test)[1],
        store.z_bin[cell.test],
        samples.masks[samples.label == 1],
        samples.z_bin[samples.label == 1],
        store.n_bins,
        config.tau,
        cell.min_px,
    )
    for z_bin in ("all", *range(store.n_bins)):
        own = slice(None) if z_bin == "all" else samples.z_bin == z_bin
        found = control.class_fidelity(samples.masks[own], samples.label[own], config.tau, cell.min_px)
        cell.add("lesion_share_class0", 1 - found.clean_share, z_bin, floor=0.0, n=found.n_clean)
        cell.add("lesion_share_class1", found.lesion_share, z_bin, floor=1.0, n=found.n_lesion)
    for row in area:
        note = f"median px; floor column: the held-out slices' own, of {row['n_real']}"
        cell.add(
            "lesion_area",
            row["area_synthetic"],
            row["z_bin"],
            floor=row["area_real"],
            n=row["n_synthetic"],
            note=note,
        )
