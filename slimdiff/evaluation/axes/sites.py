"""The axis of sites: image and lesion distances between the samples and the held-out slices of each site alone.

A model that learned one scanner is near the held-out slices of all sites together if most of them are from this
scanner. The sites are those of participants.tsv, the acquisitions those of the slice store.
"""

from collections.abc import Iterator

import numpy as np

from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation, joined
from slimdiff.evaluation.axes.mix import Selection, cells_of, select
from slimdiff.evaluation.metrics import lesions, mmd, wasserstein
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.mmd import MIN_VECTORS
from slimdiff.evaluation.statistics.bootstrap import FEWEST_SUBJECTS, Interval, Resampling
from slimdiff.files import MISSING
from slimdiff.stored_rows import ChosenRows, in_memory

BY_SITE_COLUMNS = (
    "variant",
    "fold",
    "kind",
    "name",
    "metric",
    "extractor",
    "subjects",
    "n_real",
    "n_synthetic",
    "value",
    "ci_low",
    "ci_high",
    "floor",
    "others",
    "reason",
    "interval_reason",
)
"""Columns of by_site.tsv. `kind`: site or acquisition. `others`: the distance to the held-out slices of all others."""


def site_axis(evaluation: FoldEvaluation) -> None:
    """Add a row of by_site.tsv per site, acquisition and distance, and the worst site to the metrics.

    Without two known sites (or acquisitions) there are no rows.
    """
    for kind, names in _groupings(evaluation):
        _images(evaluation, kind, names)
        _lesions(evaluation, kind, names)
    kinds = [row["kind"] for row in evaluation.by_site]
    worst_of = "site" if "site" in kinds else "acquisition"
    own = [row for row in evaluation.by_site if row["kind"] == worst_of]
    for metric, extractor in dict.fromkeys((row["metric"], row["extractor"]) for row in own):
        same = [row for row in own if (row["metric"], row["extractor"]) == (metric, extractor)]
        _add_worst(evaluation, metric, extractor, same)


def _groupings(evaluation: FoldEvaluation) -> Iterator[tuple[str, np.ndarray]]:
    """Kind, and (N,) name of every slice of the store; acquisitions only if they are not the sites."""
    store, used = evaluation.store, np.concatenate([evaluation.test, evaluation.train])
    sites = np.array([evaluation.sites.get(str(one), MISSING) for one in store.participant])
    acquisitions = np.asarray(store.acquisition)
    pairs = set(zip(sites[used].tolist(), acquisitions[used].tolist(), strict=True))
    same = len(pairs) == len({site for site, _ in pairs}) == len({name for _, name in pairs})
    several = [len(set(names[used].tolist()) - {MISSING, ""}) > 1 for names in (sites, acquisitions)]
    if several[0]:
        yield "site", sites
    if several[1] and not (several[0] and same):
        yield "acquisition", acquisitions


def _parts(
    evaluation: FoldEvaluation, names: np.ndarray, label: int | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, Selection]]:
    """Of every site with held-out slices: its name, its rows (indices into `test`), its training slices (indices into
    `train`), the held-out slices of all other known sites (into `test`), and the chosen slices of the first two."""
    store, samples = evaluation.store, evaluation.samples
    of_test, of_train = names[evaluation.test], names[evaluation.train]
    drawn = cells_of(samples.z_bin, samples.label)
    for name in sorted(set(of_test.tolist()) - {MISSING, ""}):
        own, training = np.flatnonzero(of_test == name), np.flatnonzero(of_train == name)
        others = np.flatnonzero((of_test != name) & ~np.isin(of_test, [MISSING, ""]))
        test, train = (
            cells_of(store.z_bin[rows], store.label[rows])
            for rows in (evaluation.test[own], evaluation.train[training])
        )
        seed, exact = evaluation.config.seed, evaluation.exact_mix
        chosen = select(test, drawn, train, seed, label=label, exact=exact)
        if label is not None:
            others = others[store.label[evaluation.test[others]] == label]
        yield name, own[chosen.held_out], training[chosen.floor], others, chosen


def _too_few(evaluation: FoldEvaluation, rows: np.ndarray) -> tuple[int, str]:
    """Number of persons of these indices into `test`, and why they are too few; empty if they are enough."""
    persons = len(set(evaluation.store.person[evaluation.test[rows]].tolist()))
    few = f"{persons} held-out subjects, at least {FEWEST_SUBJECTS} are required"
    return persons, few if persons < FEWEST_SUBJECTS else ""


def _images(evaluation: FoldEvaluation, kind: str, names: np.ndarray) -> None:
    """KID of every site with each extractor."""
    config, device = evaluation.config, evaluation.device
    images = (
        evaluation.real(evaluation.test)[0],
        evaluation.samples.images,
        evaluation.real(evaluation.train)[0],
    )
    for extractor in config.extractors:
        features = [evaluation.features(part, extractor) for part in images]
        for name, own, training, others, chosen in _parts(evaluation, names, None):
            subjects, few = _too_few(evaluation, own)
            real, synthetic, floor, rest = (
                in_memory(ChosenRows(part, rows))[:]
                for part, rows in (
                    (features[0], own),
                    (features[1], chosen.samples),
                    (features[2], training),
                    (features[0], others),
                )
            )
            if not few and min(len(real), len(synthetic)) < MIN_VECTORS:
                few = (
                    f"{len(real)} real and {len(synthetic)} synthetic slices; at least {MIN_VECTORS} of each are "
                    "required"
                )
            numbers, interval = [np.nan] * 3, None
            if not few:
                numbers = [
                    kid(real, part, config.seed, device=device).value for part in (synthetic, floor, rest)
                ]
                resampling = Resampling.of(
                    evaluation.store.person[evaluation.test[own]], config.bootstrap, config.seed
                )
                interval = resampling.percentile(
                    mmd.resampled_mmd2(real, synthetic, resampling.index, resampling.counts, device)
                )
            note = chosen.note
            if not few and len(floor) < MIN_VECTORS:
                note = joined(
                    note, f"no floor: {len(floor)} training slices, at least {MIN_VECTORS} are required"
                )
            counted = (subjects, len(real), len(synthetic))
            _add(evaluation, kind, name, "kid", extractor, counted, numbers, interval, few, note)


def _lesions(evaluation: FoldEvaluation, kind: str, names: np.ndarray) -> None:
    """Geometric mean of W1 of the lesions' shape features, of every site."""
    samples, config = evaluation.samples, evaluation.config

    def shapes(masks, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return lesions.component_features(
            ChosenRows(masks, rows), config.tau, evaluation.min_px, evaluation.min_slice_px
        )

    stored = evaluation.store.masks
    for name, own, training, others, chosen in _parts(evaluation, names, 1):
        real, of_slice = shapes(stored, evaluation.test[own])
        subjects, few = _too_few(evaluation, own[of_slice])
        synthetic = shapes(samples.masks, chosen.samples)[0]
        if not few and not len(synthetic):
            few = f"{len(real)} real and 0 synthetic components; at least one of each is required"
        numbers, interval = [np.nan] * 3, None
        if not few:
            parts = (
                synthetic,
                shapes(stored, evaluation.train[training])[0],
                shapes(stored, evaluation.test[others])[0],
            )
            numbers = [wasserstein.feature_wasserstein(real, part)[1] for part in parts]
            resampling = evaluation.resampling(evaluation.test[own[of_slice]])
            each = wasserstein.resampled_wasserstein(real, synthetic, resampling.index, resampling.counts)
            with np.errstate(divide="ignore"):
                interval = resampling.distance(numbers[0], np.exp(np.log(each).mean(axis=1)))
        counted = (subjects, len(real), len(synthetic))
        _add(evaluation, kind, name, "mmd_mf_w1", MISSING, counted, numbers, interval, few, chosen.note)


def _add(
    evaluation: FoldEvaluation,
    kind: str,
    name: str,
    metric: str,
    extractor: str,
    counted: tuple[int, int, int],
    numbers: list[float],
    interval: Interval | None,
    few: str,
    note: str,
) -> None:
    """One row of by_site.tsv; counted: subjects, real and synthetic slices or components; numbers: value, floor and
    distance to the others."""
    low, high = (interval.low, interval.high) if interval else (np.nan, np.nan)
    evaluation.by_site.append(
        {
            **{key: evaluation.names[key] for key in ("variant", "fold")},
            "kind": kind,
            "name": name,
            "metric": metric,
            "extractor": extractor,
            **dict(zip(("subjects", "n_real", "n_synthetic"), counted, strict=True)),
            "value": float(numbers[0]),
            "ci_low": low,
            "ci_high": high,
            "floor": float(numbers[1]),
            "others": float(numbers[2]),
            "reason": joined(few, note),
            "interval_reason": few or (interval.reason or "" if interval else ""),
        }
    )


def _add_worst(evaluation: FoldEvaluation, metric: str, extractor: str, rows: list[dict]) -> None:
    """The row of the site with the largest value, under the name of the metric and `_worst_site`."""
    known = [row for row in rows if np.isfinite(row["value"])]
    without = ", ".join(f"{row['name']} ({row['reason']})" for row in rows if row not in known)
    without = f"no value: {without}" if without else ""
    if not known:
        evaluation.add(
            f"{metric}_worst_site", np.nan, extractor=extractor, reason=without, interval_reason=without
        )
        return
    worst = max(known, key=lambda row: row["value"])
    evaluation.add(
        f"{metric}_worst_site",
        worst["value"],
        extractor=extractor,
        interval=Interval(worst["ci_low"], worst["ci_high"], worst["interval_reason"] or None),
        floor=worst["floor"],
        n=worst["n_synthetic"],
        reason=joined(
            f"{worst['kind']} {worst['name']}, the worst of {len(known)}", worst["reason"], without
        ),
    )
