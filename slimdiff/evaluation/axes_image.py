"""The image axis: feature distances and LPIPS of a cell, beside floors, intervals and the blur anchor."""

import numpy as np
from scipy import ndimage

from slimdiff.evaluation import image, kernels, statistics
from slimdiff.evaluation.cell import Cell
from slimdiff.evaluation.perceptual import lpips_distance
from slimdiff.evaluation.ranges import store_precision

BLUR_PX = 2.0  # an anchor on the scale of KID: held-out slices through this Gaussian


def image_axis(cell: Cell) -> None:
    """KID, FID, precision, recall a named extractor, the blur anchor of KID, and LPIPS."""
    config, store, samples = cell.config, cell.store, cell.samples
    test_images, _ = cell.real(cell.test)
    train_images, _ = cell.real(cell.train)
    bins, test_bins, train_bins = samples.z_bin, store.z_bin[cell.test], store.z_bin[cell.train]
    subjects = store.participant[cell.test]
    index, n_subjects = statistics.subject_indices(subjects)
    counts = statistics.resample_counts(n_subjects, config.bootstrap, config.seed)
    blurred = store_precision(
        np.stack([ndimage.gaussian_filter(picture.astype(np.float32), BLUR_PX) for picture in test_images])
    )
    for extractor in config.extractors:
        test, train = cell.features(test_images, extractor), cell.features(train_images, extractor)
        drawn = cell.features(samples.images, extractor)

        def kid(real: np.ndarray, synthetic: np.ndarray) -> float:
            return image.kid(real, synthetic, config.seed, config.subsets).value

        n = len(drawn)
        resampled = kernels.resampled_mmd2(test, drawn, index, counts)
        interval = statistics.percentile_interval(resampled, n_subjects)
        floor = statistics.floor(kid, test, train, n, config.seed)
        mix = "samples: classes and z-bins in equal parts; held-out slices as they come"
        cell.add("kid", kid(test, drawn), extractor=extractor, interval=interval, floor=floor, n=n, note=mix)
        soft = kid(test, cell.features(blurred, extractor))
        note = f"held-out slices blurred by {BLUR_PX:g} px"
        cell.add("kid_blurred", soft, extractor=extractor, n=len(blurred), note=note)
        floor = statistics.floor(image.fid, test, train, n, config.seed)
        note = "biased upwards for few slices: compare with its floor only"
        cell.add("fid", image.fid(test, drawn), extractor=extractor, floor=floor, n=n, note=note)
        precision, recall = image.precision_recall(test, drawn)
        limits = [
            statistics.floor(lambda a, b, k=k: image.precision_recall(a, b)[k], test, train, n, config.seed)
            for k in (0, 1)
        ]
        cell.add("precision", precision, extractor=extractor, floor=limits[0], n=n)
        cell.add("recall", recall, extractor=extractor, floor=limits[1], n=n)
        for z_bin in range(store.n_bins):
            own = drawn[bins == z_bin]
            real, other = test[test_bins == z_bin], train[train_bins == z_bin]
            floor = statistics.floor(kid, real, other, len(own), config.seed) if len(other) else np.nan
            value = kid(real, own)
            note = (
                ""
                if np.isfinite(value)
                else f"{len(real)} real and {len(own)} synthetic slices; 10 of each wanted"
            )
            cell.add("kid", value, z_bin, extractor, floor=floor, n=len(own), note=note)
    _lpips(cell, test_images, train_images, subjects, test_bins, train_bins)


def _lpips(cell: Cell, test_images, train_images, subjects, test_bins, train_bins) -> None:
    config, samples = cell.config, cell.samples
    net = f"lpips-{config.lpips_net}"

    def between(images, bins, groups, others, other_bins, other_groups):
        first, second = image.matched_pairs(
            bins, other_bins, config.lpips_pairs, config.seed, groups, other_groups
        )
        return first, lpips_distance(images[first], others[second], config.lpips_net)

    ids, train_subjects = samples.id, cell.store.participant[cell.train]
    real_first, to_samples = between(test_images, test_bins, subjects, samples.images, samples.z_bin, ids)
    train_first, to_train = between(
        test_images, test_bins, subjects, train_images, train_bins, train_subjects
    )
    _, among = between(samples.images, samples.z_bin, ids, samples.images, samples.z_bin, ids)
    _, among_real = between(test_images, test_bins, subjects, test_images, test_bins, subjects)
    interval = statistics.subject_bootstrap(
        lambda rows: to_samples[rows].mean(), subjects[real_first], config.bootstrap, config.seed
    )
    n = len(to_samples)
    cell.add("lpips", to_samples.mean(), extractor=net, interval=interval, floor=to_train.mean(), n=n)
    real = among_real.mean() if len(among_real) else np.nan
    note = "" if len(among_real) else "no two held-out subjects share a z-bin"
    cell.add("lpips_diversity", among.mean(), extractor=net, floor=real, n=len(among), note=note)
    for z_bin in range(cell.store.n_bins):
        own = to_samples[test_bins[real_first] == z_bin]
        real = to_train[test_bins[train_first] == z_bin]
        value, floor = (part.mean() if len(part) else np.nan for part in (own, real))
        cell.add("lpips", value, z_bin, net, floor=floor, n=len(own), note="" if len(own) else "no pair")
