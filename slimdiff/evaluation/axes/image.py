"""The image axis: feature distances, LPIPS, spectra and brightness of a cell, beside floors and intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation, same_mix, strata
from slimdiff.evaluation.metrics import kid, lpips, mmd
from slimdiff.evaluation.metrics.as_published import kid_ref, lpips_ref
from slimdiff.evaluation.metrics.fid import fid, resampled_fid
from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.lpips import lpips_distance
from slimdiff.evaluation.metrics.mmd import MIN_VECTORS
from slimdiff.evaluation.metrics.precision_recall import precision_recall
from slimdiff.evaluation.metrics.profiles import (
    brain_histograms,
    histogram_distance,
    radial_spectra,
    spectrum_distance,
)
from slimdiff.evaluation.statistics.bootstrap import SAMPLES, Resampling, resampled_means

BLUR_PX = 2.0  # an anchor on the scale of KID: held-out slices through this Gaussian
SLOW_BOOTSTRAP = 100
"""Most resamples for FID, precision and recall; each costs a decomposition or a search of all distances."""
FLOOR_NOTE = "floor: training slices in the samples' mix of z-bins and classes, as far as there are any"


@dataclass(frozen=True)
class Selection:
    """The rows of one z-bin, or of all: of held-out slices, of samples, and of the floor's training slices."""

    z_bin: int | str
    test: np.ndarray
    drawn: np.ndarray
    like: np.ndarray
    equal: np.ndarray
    """As many samples of each z-bin and class as `like` has slices: of what depends on the number of slices."""
    subjects: np.ndarray
    """Participant of each held-out slice."""


def selections(cell: FoldEvaluation) -> Iterator[Selection]:
    """Over everything, then z-bin by z-bin; rows count within `cell.test`, the samples and `cell.like`."""
    store = cell.store
    bins = store.z_bin[cell.test], cell.samples.z_bin, store.z_bin[cell.like]
    subjects = store.participant[cell.test]
    equal = same_mix(
        strata(bins[2], store.label[cell.like]),
        strata(cell.samples.z_bin, cell.samples.label),
        cell.config.seed,
    )
    for z_bin in ("all", *range(store.n_bins)):
        test, drawn, like = (np.flatnonzero((own == z_bin) | (z_bin == "all")) for own in bins)
        yield Selection(z_bin, test, drawn, like, np.intersect1d(equal, drawn), subjects[test])


def image_axis(cell: FoldEvaluation) -> None:
    """Every image metric over all slices and a z-bin; the reference's own procedures where they are asked for."""
    chosen = list(selections(cell))
    test, like = cell.real(cell.test)[0], cell.real(cell.like)[0]
    blurred = store_precision(
        np.stack([ndimage.gaussian_filter(i.astype(np.float32), BLUR_PX) for i in test])
    )
    for extractor in cell.config.extractors:
        features = [cell.features(images, extractor) for images in (test, cell.samples.images, like)]
        for selection in chosen:
            _feature_distances(cell, selection, extractor, *features)
        soft = _kid(cell, features[0], cell.features(blurred, extractor))
        note = f"held-out slices blurred by {BLUR_PX:g} px; no interval: a mark on the scale, no measurement"
        cell.add("kid_blurred", soft, extractor=extractor, n=len(blurred), note=note)
    for metric, profile, distance in (
        ("spectrum", radial_spectra, spectrum_distance),
        ("brain_histogram", brain_histograms, histogram_distance),
    ):
        profiles = [profile(images) for images in (test, cell.samples.images, like)]
        for selection in chosen:
            _profile_distance(cell, selection, metric, distance, *profiles)
    _lpips(cell, test, like)
    if cell.config.reference:
        _reference(cell, test, like)


def _kid(cell: FoldEvaluation, real: np.ndarray, synthetic: np.ndarray) -> float:
    return kid.kid(real, synthetic, cell.config.seed, device=cell.device).value


def _feature_distances(
    cell: FoldEvaluation,
    chosen: Selection,
    extractor: str,
    test: np.ndarray,
    drawn: np.ndarray,
    like: np.ndarray,
) -> None:
    config = cell.config
    real, synthetic, floor = test[chosen.test], drawn[chosen.drawn], like[chosen.like]
    # Without training slices there is no floor to be compared with, and all samples count.
    equal = drawn[chosen.equal] if len(floor) else synthetic
    few = min(len(real), len(synthetic)) < MIN_VECTORS
    wanting = f"{len(real)} real and {len(synthetic)} synthetic slices; {MIN_VECTORS} of each wanted"
    note = wanting if few else FLOOR_NOTE
    common = {"z_bin": chosen.z_bin, "extractor": extractor, "n": len(synthetic)}

    many = Resampling.of(chosen.subjects, config.bootstrap, config.seed)
    resampled = mmd.resampled_mmd2(real, synthetic, many.index, many.counts, cell.device)
    interval = many.percentile(resampled)
    value, lowest = _kid(cell, real, synthetic), _kid(cell, real, floor)
    cell.add("kid", value, interval=interval, floor=lowest, note=note, **common)

    common["n"] = len(equal)
    thinned = f"{len(equal)} of {len(synthetic)} samples, as many of each z-bin and class as the floor has"
    wanting = f"{len(real)} real and {len(equal)} synthetic slices; {MIN_VECTORS} of each wanted"
    few = min(len(real), len(equal)) < MIN_VECTORS
    slow_resamples = min(config.bootstrap, SLOW_BOOTSTRAP)
    slow = Resampling.of(chosen.subjects, slow_resamples, config.seed)
    value = fid(real, equal)
    halves = Resampling.halves(chosen.subjects, slow_resamples, config.seed)
    resampled = resampled_fid(real, equal, halves.index, halves.counts)
    interval = halves.centred(value, resampled, lowest=0.0)
    biased = wanting if few else f"biased upwards for few slices: {thinned}"
    cell.add("fid", value, interval=interval, floor=fid(real, floor), note=biased, **common)

    found = precision_recall(real, equal, subjects=slow.index, counts=slow.counts, device=cell.device)
    note = wanting if few else f"depends on how many slices there are: {thinned}"
    limit = precision_recall(real, floor, device=cell.device)
    for metric in ("precision", "recall"):
        value = getattr(found, metric)
        interval = slow.centred(value, getattr(found, f"{metric}_resampled"), lowest=0.0, highest=1.0)
        cell.add(metric, value, interval=interval, floor=getattr(limit, metric), note=note, **common)


def _profile_distance(
    cell: FoldEvaluation,
    chosen: Selection,
    metric: str,
    distance,
    test: np.ndarray,
    drawn: np.ndarray,
    like: np.ndarray,
) -> None:
    """A distance between mean profiles, each slice counting alike; slices without brain have none."""
    parts = [test[chosen.test], drawn[chosen.drawn], like[chosen.like]]
    known = [np.isfinite(part).all(axis=1) for part in parts]
    real, synthetic, floor = (part[finite] for part, finite in zip(parts, known, strict=True))
    common = {"z_bin": chosen.z_bin, "n": len(synthetic)}
    if not len(real) or not len(synthetic):
        cell.add(metric, np.nan, note=f"{len(real)} real and {len(synthetic)} synthetic slices", **common)
        return
    resampling = Resampling.of(chosen.subjects[known[0]], cell.config.bootstrap, cell.config.seed)
    middle = synthetic.mean(axis=0)
    value = float(distance(real.mean(axis=0), middle))
    resampled = distance(resampled_means(real, resampling.index, resampling.counts), middle)
    interval = resampling.distance(value, resampled)
    limit = float(distance(real.mean(axis=0), floor.mean(axis=0))) if len(floor) else np.nan
    cell.add(metric, value, interval=interval, floor=limit, note=FLOOR_NOTE, **common)


def _lpips(cell: FoldEvaluation, test: np.ndarray, like: np.ndarray) -> None:
    config, samples, store = cell.config, cell.samples, cell.store
    net = f"lpips-{config.lpips_net}"
    held_out = test, store.z_bin[cell.test], store.participant[cell.test]
    trained = like, store.z_bin[cell.like], store.participant[cell.like]
    drawn = samples.images, samples.z_bin, samples.id

    def between(one, other) -> tuple[np.ndarray, np.ndarray]:
        first, second = lpips.matched_pairs(
            one[1], other[1], config.lpips_pairs, config.seed, one[2], other[2]
        )
        distances = lpips_distance(one[0][first], other[0][second], config.lpips_net, device=cell.device)
        return first, distances

    first, to_samples = between(held_out, drawn)
    floor_first, to_trained = between(held_out, trained)
    for z_bin in ("all", *range(store.n_bins)):
        own, other = (
            np.flatnonzero((held_out[1][rows] == z_bin) | (z_bin == "all")) for rows in (first, floor_first)
        )
        note = "pairs of a z-bin; floor: training slices for samples" if len(own) else "no pair of slices"
        resampling = Resampling.of(held_out[2][first[own]], config.bootstrap, config.seed)
        interval = resampling.percentile(
            resampled_means(to_samples[own], resampling.index, resampling.counts)
        )
        value, floor = _mean(to_samples[own]), _mean(to_trained[other])
        cell.add("lpips", value, z_bin, net, interval=interval, floor=floor, n=len(own), note=note)
    first, among = between(drawn, drawn)
    _, among_real = between(held_out, held_out)
    resampling = Resampling.of(samples.id[first], config.bootstrap, config.seed, SAMPLES)
    interval = resampling.percentile(resampled_means(among, resampling.index, resampling.counts))
    note = "interval over samples of this model; floor: among held-out subjects"
    if not len(among_real):
        note += ", of whom no two share a z-bin"
    cell.add(
        "lpips_diversity",
        _mean(among),
        extractor=net,
        interval=interval,
        floor=_mean(among_real),
        n=len(among),
        note=note,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _reference(cell: FoldEvaluation, test: np.ndarray, like: np.ndarray) -> None:
    """The reference's KID and LPIPS."""
    seed, n = cell.config.seed, len(cell.samples.images)
    for extractor in cell.config.extractors:
        value, floor = (
            kid_ref(test, images, extractor, seed, cell.device).value
            for images in (cell.samples.images, like)
        )
        note = "the reference's procedure: grey levels wrap (F2); no interval: it has none over subjects"
        cell.add("kid_ref", value, extractor=extractor, floor=floor, n=n, note=note)
    value, floor = (lpips_ref(test, images, seed, cell.device)[0] for images in (cell.samples.images, like))
    note = "the reference's procedure: pairs of any heights; no interval: it has none over subjects"
    cell.add("lpips_ref", value, extractor="lpips-vgg", floor=floor, n=n, note=note)
