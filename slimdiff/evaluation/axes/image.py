"""The image axis: KID, FID, precision, recall, LPIPS, spectra, histograms and outlines, with floors and intervals."""

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.axes.floor import FLOOR_NOTE
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation, joined
from slimdiff.evaluation.axes.mix import Selection
from slimdiff.evaluation.metrics import mmd
from slimdiff.evaluation.metrics.as_published import kid_ref, lpips_ref
from slimdiff.evaluation.metrics.fid import fid, resampled_fid
from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.lpips import lpips_distance, matched_pairs
from slimdiff.evaluation.metrics.mmd import MIN_VECTORS
from slimdiff.evaluation.metrics.outline import MIN_REAL, in_real_range, outlines
from slimdiff.evaluation.metrics.precision_recall import precision_recall
from slimdiff.evaluation.metrics.profiles import (
    brain_histograms,
    histogram_distance,
    radial_spectra,
    spectrum_distance,
)
from slimdiff.evaluation.statistics.bootstrap import SAMPLES, Resampling, resampled_means, share_interval
from slimdiff.stored_rows import ChosenRows, ConvertedRows, Rows, in_memory

BLUR_PX = 2.0
"""Sd of the Gaussian blur of held-out slices, whose KID is a reference point on the scale of KID."""
SLOW_BOOTSTRAP = 100
"""Maximum number of resamples for FID, precision and recall, which are slow to compute."""


def _all_images(evaluation: FoldEvaluation) -> tuple[Rows, np.ndarray | Rows, Rows]:
    """Images of all held-out slices, samples and training slices; a `Selection` has indices into them."""
    test, training = (evaluation.real(rows)[0] for rows in (evaluation.test, evaluation.train))
    return test, evaluation.samples.images, training


def feature_distances(evaluation: FoldEvaluation) -> None:
    """KID, FID, precision and recall with each extractor, and KID of blurred held-out slices."""
    config, device = evaluation.config, evaluation.device
    held_out_subjects = evaluation.store.person[evaluation.test]
    sets = _all_images(evaluation)
    blurred = ConvertedRows(sets[0], _blurred, np.float32)
    for extractor in config.extractors:
        features = [evaluation.features(images, extractor) for images in sets]
        for chosen in evaluation.selections:
            rows = (chosen.held_out, chosen.samples, chosen.floor)
            real, synthetic, floor = (
                in_memory(ChosenRows(part, own)) for part, own in zip(features, rows, strict=True)
            )
            real, floor = real[:], floor[:]
            matched, subjects = features[1][chosen.matched], held_out_subjects[chosen.held_out]
            common = {"z_bin": chosen.z_bin, "extractor": extractor}

            bootstrap = Resampling.of(subjects, config.bootstrap, config.seed)
            resampled = mmd.resampled_mmd2(real, synthetic, bootstrap.index, bootstrap.counts, device)
            value = kid(real, synthetic, config.seed, device=device).value
            limit = kid(real, floor, config.seed, device=device).value
            evaluation.add(
                "kid",
                value,
                interval=bootstrap.percentile(resampled),
                floor=limit,
                reason=joined(_too_few(real, synthetic) or FLOOR_NOTE, chosen.note),
                n=len(synthetic),
                **common,
            )

            common["n"] = len(matched)
            few = _too_few(real, matched)
            thinned = joined(
                f"{len(matched)} of {chosen.n_samples} samples, as many of each z-bin and class as the floor has",
                chosen.left_out,
            )
            slow = min(config.bootstrap, SLOW_BOOTSTRAP)
            bootstrap = Resampling.of(subjects, slow, config.seed)
            halves = Resampling.halves(subjects, slow, config.seed)
            value = fid(real, matched)
            resampled = resampled_fid(real, matched, halves.index, halves.counts)
            interval = halves.centred(value, resampled, lowest=0.0)
            reason = joined(few or "biased upwards for few slices", thinned)
            evaluation.add("fid", value, interval=interval, floor=fid(real, floor), reason=reason, **common)

            found = precision_recall(
                real, matched, subjects=bootstrap.index, counts=bootstrap.counts, device=device
            )
            limits = precision_recall(real, floor, device=device)
            reason = joined(few or "depends on the number of slices", thinned)
            for metric in ("precision", "recall"):
                value = getattr(found, metric)
                interval = bootstrap.centred(
                    value, getattr(found, f"{metric}_resampled"), lowest=0.0, highest=1.0
                )
                evaluation.add(
                    metric, value, interval=interval, floor=getattr(limits, metric), reason=reason, **common
                )
        real = evaluation.selections[0].held_out
        of_blurred = evaluation.features(blurred, extractor)[real]
        value = kid(features[0][real], of_blurred, config.seed, device=device).value
        evaluation.add(
            "kid_blurred",
            value,
            extractor=extractor,
            n=len(real),
            reason=f"held-out slices blurred by {BLUR_PX:g} px",
            interval_reason="reference point on the scale, no interval",
        )


def _blurred(images: np.ndarray) -> np.ndarray:
    blurred = [ndimage.gaussian_filter(image.astype(np.float32), BLUR_PX) for image in images]
    return store_precision(np.stack(blurred)) if blurred else images.astype(np.float32)


def _too_few(real: np.ndarray, synthetic: np.ndarray) -> str:
    """Why there is no value; empty if there are enough slices."""
    if min(len(real), len(synthetic)) >= MIN_VECTORS:
        return ""
    return (
        f"{len(real)} real and {len(synthetic)} synthetic slices; at least {MIN_VECTORS} of each are required"
    )


def profile_distances(evaluation: FoldEvaluation) -> None:
    """Distances of mean radial spectra and brain histograms."""
    sets = _all_images(evaluation)
    for metric, profile, distance in (
        ("spectrum", radial_spectra, spectrum_distance),
        ("brain_histogram", brain_histograms, histogram_distance),
    ):
        profiles = [profile(images) for images in sets]
        for chosen in evaluation.selections:
            _profile_distance(evaluation, chosen, metric, distance, *profiles)


def _profile_distance(
    evaluation: FoldEvaluation,
    chosen: Selection,
    metric: str,
    distance,
    test: np.ndarray,
    drawn: np.ndarray,
    training: np.ndarray,
) -> None:
    """Distance between the mean profiles; slices without brain have no profile and are left out."""
    parts = [test[chosen.held_out], drawn[chosen.samples], training[chosen.floor]]
    known = [np.isfinite(part).all(axis=1) for part in parts]
    real, synthetic, floor = (part[finite] for part, finite in zip(parts, known, strict=True))
    common = {"z_bin": chosen.z_bin, "n": len(synthetic)}
    if not len(real) or not len(synthetic):
        reason = joined(f"{len(real)} real and {len(synthetic)} synthetic slices", chosen.note)
        evaluation.add(metric, np.nan, reason=reason, **common)
        return
    resampling = evaluation.resampling(evaluation.test[chosen.held_out[known[0]]])
    middle = synthetic.mean(axis=0)
    value = float(distance(real.mean(axis=0), middle))
    resampled = distance(resampled_means(real, resampling.index, resampling.counts), middle)
    interval = resampling.distance(value, resampled)
    limit = float(distance(real.mean(axis=0), floor.mean(axis=0))) if len(floor) else np.nan
    reason = joined(FLOOR_NOTE, chosen.note)
    evaluation.add(metric, value, interval=interval, floor=limit, reason=reason, **common)


def outline_shares(evaluation: FoldEvaluation) -> None:
    """Share of samples whose brain has an outline in the range of the real slices of its z-bin."""
    store, samples = evaluation.store, evaluation.samples
    test, drawn, training = (outlines(images) for images in _all_images(evaluation))
    real = np.concatenate([test, training])
    real_z_bin = store.z_bin[np.concatenate([evaluation.test, evaluation.train])]
    inside = in_real_range(drawn, samples.z_bin, real, real_z_bin)
    of_training = in_real_range(training, store.z_bin[evaluation.train], real, real_z_bin)
    for chosen in evaluation.selections:
        own, floor = (part[np.isfinite(part)] for part in (inside[chosen.samples], of_training[chosen.floor]))
        left_out = len(chosen.samples) - len(own)
        note = (
            f"{left_out} samples left out: fewer than {MIN_REAL} real slices in their z-bin"
            if left_out
            else ""
        )
        evaluation.add(
            "outline_share",
            _mean(own),
            chosen.z_bin,
            interval=share_interval(int(own.sum()), len(own)),
            floor=_mean(floor),
            n=len(own),
            reason=joined(f"interval over samples of this model; {FLOOR_NOTE}", note, chosen.note),
        )


def lpips_distances(evaluation: FoldEvaluation) -> None:
    """LPIPS between samples and held-out slices of the same z-bin, and among samples."""
    config, samples, store = evaluation.config, evaluation.samples, evaluation.store
    net, chosen = f"lpips-{config.lpips_net}", evaluation.selections[0]
    held_out, trained = (
        (evaluation.real(rows)[0], store.z_bin[rows], store.person[rows])
        for rows in (evaluation.test[chosen.held_out], evaluation.train[chosen.floor])
    )
    drawn = (
        ChosenRows(samples.images, chosen.samples),
        samples.z_bin[chosen.samples],
        samples.id[chosen.samples],
    )

    def between(one, other) -> tuple[np.ndarray, np.ndarray]:
        first, second = matched_pairs(one[1], other[1], config.lpips_pairs, config.seed, one[2], other[2])
        distances = lpips_distance(
            one[0][first], other[0][second], config.lpips_net, device=evaluation.device
        )
        return first, distances

    first, to_samples = between(held_out, drawn)
    floor_first, to_trained = between(held_out, trained)
    for z_bin in ("all", *range(store.n_bins)):
        own, other = (
            np.flatnonzero((held_out[1][rows] == z_bin) | (z_bin == "all")) for rows in (first, floor_first)
        )
        note = "pairs within a z-bin" if len(own) else "no pair of slices"
        note = joined(note, FLOOR_NOTE, chosen.note if z_bin == "all" else "")
        resampling = Resampling.of(held_out[2][first[own]], config.bootstrap, config.seed)
        interval = resampling.percentile(
            resampled_means(to_samples[own], resampling.index, resampling.counts)
        )
        value, floor = _mean(to_samples[own]), _mean(to_trained[other])
        evaluation.add("lpips", value, z_bin, net, interval=interval, floor=floor, n=len(own), reason=note)
    first, among = between(drawn, drawn)
    _, among_real = between(held_out, held_out)
    resampling = Resampling.of(drawn[2][first], config.bootstrap, config.seed, SAMPLES)
    interval = resampling.percentile(resampled_means(among, resampling.index, resampling.counts))
    note = "interval over samples of this model; floor: among held-out subjects"
    if not len(among_real):
        note += ", of which no two share a z-bin"
    evaluation.add(
        "lpips_diversity",
        _mean(among),
        extractor=net,
        interval=interval,
        floor=_mean(among_real),
        n=len(among),
        reason=joined(note, chosen.note),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def published_distances(evaluation: FoldEvaluation) -> None:
    """KID and LPIPS by the procedures of the published code, if `evaluation.reference` is true."""
    if not evaluation.config.reference:
        return
    chosen = evaluation.selections[0]
    test, training = (
        evaluation.real(rows)[0]
        for rows in (evaluation.test[chosen.held_out], evaluation.train[chosen.floor])
    )
    drawn = ChosenRows(evaluation.samples.images, chosen.samples)
    seed, n, device = evaluation.config.seed, len(drawn), evaluation.device
    common = {"n": n, "interval_reason": "the published procedure has no interval over subjects"}
    for extractor in evaluation.config.extractors:
        value, floor = (kid_ref(test, images, extractor, seed, device).value for images in (drawn, training))
        reason = joined("the published procedure: grey levels wrap (F2)", chosen.note)
        evaluation.add("kid_ref", value, extractor=extractor, floor=floor, reason=reason, **common)
    value, floor = (lpips_ref(test, images, seed, device)[0] for images in (drawn, training))
    reason = joined("the published procedure: pairs of slices from any z-bins", chosen.note)
    evaluation.add("lpips_ref", value, extractor="lpips-vgg", floor=floor, reason=reason, **common)
