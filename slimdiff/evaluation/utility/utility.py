"""Utility for segmentation: segmenters trained on real slices, on samples, and on both, tested on held-out subjects.

Segmenters of real slices are the same for every variant of a fold and are trained once. They are written to
`metrics/real/fold-{k}/` as `segmenter-{percent}.safetensors`, with `utility_subjects.tsv`. The folder
`metrics/{variant}/fold-{k}/` contains `utility.tsv` (columns as in metrics.tsv) and the variant's own
`utility_subjects.tsv`. Validation subjects are not used: the number of steps and the threshold are fixed in advance.

A fold has one generator, of all its training subjects. With a smaller share of real slices its samples know subjects
that the segmenter of real slices does not: these gains are optimistic. `benchmarks/quality/usefulness/` trains a
generator for each share.

Scores are those of participants. Two of them may be scans of one person: shares of the training subjects, intervals and
tests are over persons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from slimdiff.config import Study
from slimdiff.config.paths import REAL
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.devices import pick_device
from slimdiff.evaluation.metrics.binary_masks import binarise
from slimdiff.evaluation.registry import CAUTION, COLUMNS, utility_metric
from slimdiff.evaluation.statistics import bootstrap
from slimdiff.evaluation.statistics.significance import wilcoxon_signed_rank
from slimdiff.evaluation.utility.scores import Scores, score_slices
from slimdiff.evaluation.utility.segmenter import (
    Pairs,
    Segmenter,
    load_segmenter,
    predict,
    save_segmenter,
    train_segmenter,
)
from slimdiff.files import MISSING, read_table, write_table
from slimdiff.generation.samples import Samples, read_samples

SCORES = {
    "dice": "dice",
    "sensitivity": "sensitivity",
    "false_positives": "false_positives_per_slice",
    "false_positive_share": "false_positive_share_empty",
}
"""Score in the metric name, and the attribute of `Scores`."""
PAIRED = "difference paired over subjects; the interval does not include the variation between trainings"


def utility_rows(
    names: dict,
    percents: tuple[int, ...],
    subjects: Mapping[str, Scores],
    trts: tuple[Scores, Scores],
    n_boot: int,
    seed: int,
    without_samples: str = "",
    persons: Sequence[str] | None = None,
) -> list[dict]:
    """The rows of one variant and fold.

    Args:
        names: study, variant and fold.
        percents: shares of the training subjects, ascending.
        subjects: condition to the scores of the S held-out participants, always the same in the same order. The
            condition `synthetic` is missing if no segmenter could be trained on samples.
        trts: scores, by the segmenter of real slices, of every sample, and of held-out slices with the samples'
            share of lesion slices.
        n_boot, seed: number and seed of the resamplings for intervals.
        without_samples: why the condition `synthetic` is missing.
        persons: (S,) person of each held-out participant; None: each is a person.
    """
    rows = []
    own = np.arange(len(next(iter(subjects.values())))) if persons is None else np.asarray(persons)

    def add(metric, values, floor=np.nan, note="", missing="no held-out subject has a lesion slice"):
        rows.append(_row(names, metric, values, own, floor, note, missing, n_boot, seed))

    for score, attribute in SCORES.items():
        of = {condition: getattr(scores, attribute) for condition, scores in subjects.items()}
        largest = percents[-1]
        for percent in percents:
            real, both = of[f"real_{percent}"], of[f"real_synthetic_{percent}"]
            caution = CAUTION if percent < 100 else ""
            add(
                utility_metric(score, "real", percent), real, note=_counts(score, subjects[f"real_{percent}"])
            )
            note = _joined("floor column: real alone", caution)
            add(utility_metric(score, "real_synthetic", percent), both, _mean(real), note)
            difference = both - real
            note = _joined(PAIRED, signed_rank(_mean_of_each(own, difference)), caution)
            add(utility_metric(score, "gain", percent), difference, 0.0, note)
        real = of[f"real_{largest}"]
        note = f"floor column: real alone, {largest} %"
        drawn = of.get("synthetic", np.full(len(real), np.nan))
        missing = without_samples or "no held-out subject has a lesion slice"
        add(utility_metric(score, "synthetic"), drawn, _mean(real), note, missing)
        rows.append(_trts_row(names, score, *trts, largest, n_boot, seed))
    return rows


def _row(names, metric, values, persons, floor, note, missing, n_boot, seed) -> dict:
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return _finished(names, metric, np.nan, None, floor, 0, _joined(missing, "at least one is required"))
    values = values[known]
    interval = bootstrap.subject_bootstrap(lambda drawn: values[drawn].mean(), persons[known], n_boot, seed)
    return _finished(names, metric, values.mean(), interval, floor, len(values), note)


def _trts_row(names, score, trts, held_out, percent, n_boot, seed) -> dict:
    """Row of the segmenter of real slices tested on samples; samples have no subjects, so they are pooled."""

    def pooled(scores: Scores) -> float:
        return float(getattr(scores.pooled(), SCORES[score])[0])

    metric, value = utility_metric(score, "trts"), pooled(trts)
    if np.isnan(value):
        kind = "without lesion" if score == "false_positive_share" else "with a lesion"
        return _finished(names, metric, value, None, np.nan, 0, f"no sample {kind}; at least one is required")
    interval = bootstrap.subject_bootstrap(lambda rows: pooled(trts[rows]), range(len(trts)), n_boot, seed)
    note = (
        f"trained on real slices, {percent} %; pooled over all samples, interval over samples; floor column: pooled "
        "over held-out slices with the samples' share of lesion slices"
    )
    return _finished(names, metric, value, interval, pooled(held_out), len(trts), note)


def _finished(names, metric, value, interval, floor, n, note) -> dict:
    row = {
        **names,
        "z_bin": "all",
        "metric": metric,
        "extractor": MISSING,
        "value": float(value),
        "ci_low": interval.low if interval else np.nan,
        "ci_high": interval.high if interval else np.nan,
        "floor": float(floor),
        "n": n,
        "reason": note,
        "interval_reason": (interval and interval.reason) or "",
    }
    return {column: row[column] for column in COLUMNS}


def _counts(score: str, scores: Scores) -> str:
    """Note on subjects without a score, or on the number of lesion-free slices."""
    if score in ("dice", "sensitivity"):
        empty = int(np.isnan(getattr(scores, SCORES[score])).sum())
        return f"{empty} of {len(scores)} held-out participants have no lesion and no score" if empty else ""
    if score == "false_positive_share":
        total, flagged = scores.empty_slices.sum(), scores.empty_with_false_positive.sum()
        return f"false positives in {flagged} of {total} lesion-free slices"
    return ""


def signed_rank(differences: np.ndarray) -> str:
    """The two-sided signed rank test of paired differences in words, with the smallest possible p."""
    test = wilcoxon_signed_rank(differences)
    if not test.n:
        return f"no difference in any of {test.zeros} subjects"
    return f"p = {test.p:.2g} over {test.n} subjects that differ, smallest reachable {test.smallest_p:.2g}"


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _mean_of_each(persons: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of the known values of each person, (P,); NaN without any. A person with one value has that value."""
    return np.array([_mean(values[persons == person]) for person in np.unique(persons)])


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


COUNTS = tuple(field.name for field in fields(Scores))
SHOWN = ("dice", "sensitivity", "false_positives_per_slice", "false_positive_share_empty")
SUBJECT_COLUMNS = ("study", "variant", "fold", "participant", "person", "condition", "share", *COUNTS, *SHOWN)
SETTINGS = {"channels", "patch", "steps", "batch_size", "learning_rate", "seed"}
"""Keys of section `utility` that change a segmenter."""


class HeldOutJudge:
    """The held-out subjects of a fold, and training sets of its training subjects.

    Args:
        study: the study; its sections `utility` and `evaluation` are used.
        fold: number of the fold.
    """

    def __init__(self, study: Study, fold: int):
        self.study, self.fold = study, fold
        self.config = study.utility
        self.store = SliceStore.open(study.paths.store)
        self.parts = read_folds(study.paths.folds, fold)
        self.min_px = max(1, round(study.evaluation.min_component_mm2 / self.store.spacing_mm**2))
        self.device = pick_device(self.config.device)
        rows = self.store.rows_of(self.parts["test"])
        self.held_out, self.subjects = self._pairs(rows), self.store.participant[rows]
        self.chosen = self._chosen()

    def _chosen(self) -> dict[float, list[str]]:
        """The training participants of each share; all scans of a person are in it, or none."""
        scans: dict[str, list[str]] = {}
        for name in self.parts["train"]:
            scans.setdefault(self.store.person_of(name), []).append(name)
        with_lesion = set(self.store.person[self.store.label == 1])
        shares = nested_shares(
            [person for person in scans if person in with_lesion],
            [person for person in scans if person not in with_lesion],
            [percent / 100 for percent in self.config.percents],
            self.config.seed,
        )
        return {share: [name for person in own for name in scans[person]] for share, own in shares.items()}

    @property
    def persons(self) -> list[str]:
        """Person of each held-out participant, participants sorted."""
        return [self.store.person_of(name) for name in np.unique(self.subjects).tolist()]

    def real(self, percent: int) -> Pairs:
        """Real slices of this percentage of the training subjects."""
        return self._pairs(self.store.rows_of(self.chosen[percent / 100]))

    def _pairs(self, rows: np.ndarray) -> Pairs:
        return Pairs(np.asarray(self.store.images[rows]), np.asarray(self.store.masks[rows]).astype(bool))

    def train(self, pairs: Pairs) -> Segmenter:
        return train_segmenter(pairs, self.config, self.store.spacing_mm, self.device)

    def score(self, segmenter: Segmenter, pairs: Pairs) -> Scores:
        """Scores of every slice."""
        return score_slices(pairs.masks, predict(segmenter, pairs.images), self.min_px)

    def by_subject(self, segmenter: Segmenter) -> tuple[np.ndarray, Scores]:
        """Names of the held-out subjects, sorted, and the scores of each over all its slices."""
        return self.score(segmenter, self.held_out).grouped(self.subjects)

    def written(
        self, variant: str, condition: str, percent: int | None, subjects, scores: Scores
    ) -> list[dict]:
        """Scores of the subjects under one condition, as rows of utility_subjects.tsv."""
        names = {"study": self.study.study, "variant": variant, "fold": self.fold, "condition": condition}
        share = None if percent is None else percent / 100
        return [
            {
                **names,
                "participant": subject,
                "person": self.store.person_of(str(subject)),
                "share": share,
                **{name: int(getattr(scores, name)[i]) for name in COUNTS},
                **{name: float(getattr(scores, name)[i]) for name in SHOWN},
            }
            for i, subject in enumerate(subjects)
        ]


def nested_shares(
    patients: Sequence[str], controls: Sequence[str], shares: Sequence[float], seed: int
) -> dict[float, list[str]]:
    """Training subjects of each share; a smaller share is a subset of a larger one.

    Args:
        patients, controls: training subjects (persons) with and without a lesion. Each share contains this share of
            both, and at least one patient.
        shares: in (0, 1].
        seed: seed of the order in which subjects are added.
    """
    rng = np.random.default_rng(seed)
    patients, controls = (rng.permutation(sorted(names)).tolist() for names in (patients, controls))
    return {
        share: patients[: max(1, round(share * len(patients)))] + controls[: round(share * len(controls))]
        for share in shares
    }


def pairs_of_samples(samples: Samples, tau: float, min_slice_px: int) -> Pairs:
    """Samples as training slices: lesion is where the mask is above tau.

    Samples with a lesion smaller than `min_slice_px` are left out, as in the slice store.
    """
    masks = binarise(samples.masks, tau)
    area = masks.sum(axis=(1, 2))
    kept = (area == 0) | (area >= min_slice_px)
    return Pairs(samples.images[kept], masks[kept])


def same_share(with_lesion: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Choose as many rows as possible so that their share of lesion slices equals that of another set.

    Pooled Dice decreases with every false positive on a lesion-free slice, so two sets are only comparable with the
    same share of lesion slices.

    Args:
        with_lesion: (N,) bool, the slices to choose from.
        wanted: (M,) bool, lesion slices of the other set.
        seed: seed of the random choice.
    """
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(with_lesion == lesion)) for lesion in (True, False)]
    shares = wanted.mean() if len(wanted) else 0.0, 1 - wanted.mean() if len(wanted) else 1.0
    total = min((len(own) / share for own, share in zip(rows, shares, strict=True) if share > 0), default=0)
    return np.sort(
        np.concatenate([own[: round(total * share)] for own, share in zip(rows, shares, strict=True)])
    )


def limited(samples: Pairs, real: Pairs, per_real: float | None, seed: int) -> Pairs:
    """Random choice of at most `per_real` samples per real slice of each class; None: all samples."""
    if per_real is None:
        return samples
    rng = np.random.default_rng(seed)
    kept = []
    for lesion in (False, True):
        rows = rng.permutation(np.flatnonzero(samples.with_lesion == lesion))
        kept.append(rows[: round(per_real * int((real.with_lesion == lesion).sum()))])
    return samples[np.sort(np.concatenate(kept))]


def train_on_real(study: Study, fold: int) -> None:
    """Train the segmenters of one fold on real slices; write the segmenters and the scores of the subjects."""
    judge, rows = HeldOutJudge(study, fold), []
    for percent in judge.config.percents:
        segmenter = judge.train(judge.real(percent))
        facts = _facts(judge, percent)
        save_segmenter(study.paths.segmenter(fold, percent), segmenter, facts)
        rows += judge.written(REAL, REAL, percent, *judge.by_subject(segmenter))
    write_table(study.paths.utility_subjects(REAL, fold), rows, SUBJECT_COLUMNS)


def _facts(judge: HeldOutJudge, percent: int) -> dict:
    return {
        "data_hash": judge.store.data_hash,
        "fold": judge.fold,
        "participants": sorted(judge.chosen[percent / 100]),
        "settings": judge.config.model_dump(mode="json", include=SETTINGS),
        "min_component_px": judge.min_px,
    }


def evaluate_utility(study: Study, variant: str, fold: int) -> None:
    """Train segmenters on the samples of one variant; write `utility.tsv` and the scores of the subjects."""
    judge, paths, config = HeldOutJudge(study, fold), study.paths, study.utility
    real = _read_real(judge)
    segmenter_of_real = _real_segmenter(judge, config.percents[-1])
    samples = read_samples(paths.samples(variant, fold), judge.store.n_bins)
    min_slice_px = int(judge.store.facts["min_lesion_px"])
    drawn = pairs_of_samples(samples, study.evaluation.tau, min_slice_px)
    scores = {f"real_{percent}": own for percent, own in real.items()}
    rows = []

    def judged(condition: str, percent: int | None, pairs: Pairs) -> Scores:
        names, own = judge.by_subject(judge.train(pairs))
        rows.extend(judge.written(variant, condition, percent, names, own))
        return own

    for percent in config.percents:
        alone = judge.real(percent)
        both = alone + limited(drawn, alone, config.synthetic_per_real, config.seed)
        scores[f"real_synthetic_{percent}"] = judged("real_synthetic", percent, both)
    missing = ""
    if drawn.with_lesion.any():
        scores["synthetic"] = judged("synthetic", None, drawn)
    else:
        missing = f"none of {len(samples.images)} samples has a lesion of at least {max(1, min_slice_px)} px"
    trts = judge.score(segmenter_of_real, drawn)
    held_out = judge.score(segmenter_of_real, judge.held_out)
    beside = held_out[same_share(judge.held_out.with_lesion, drawn.with_lesion, config.seed)]
    names = {"study": study.study, "variant": variant, "fold": fold}
    evaluation = study.evaluation
    resampling = (evaluation.bootstrap, evaluation.seed)
    table = utility_rows(names, config.percents, scores, (trts, beside), *resampling, missing, judge.persons)
    write_table(paths.utility_subjects(variant, fold), rows, SUBJECT_COLUMNS)
    write_table(paths.utility(variant, fold), table, COLUMNS)


def _real_segmenter(judge: HeldOutJudge, percent: int) -> Segmenter:
    path = judge.study.paths.segmenter(judge.fold, percent)
    segmenter, facts = load_segmenter(path, judge.device)
    if facts != _facts(judge, percent):
        raise ValueError(
            f"{path}: expected a segmenter of this study, found one of other slices, subjects or settings; "
            "run slimdiff-segmenter again"
        )
    return segmenter


def _read_real(judge: HeldOutJudge) -> dict[int, Scores]:
    """Percent to the scores of the held-out subjects by the segmenter of real slices, subjects sorted."""
    path = judge.study.paths.utility_subjects(REAL, judge.fold)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a table, found no file; run slimdiff-segmenter first")
    subjects = np.unique(judge.subjects)
    table = read_table(path, ("participant", "share", *COUNTS))
    found = {}
    for percent in judge.config.percents:
        own = {
            row["participant"]: row
            for row in table
            if row["share"] != MISSING and round(100 * float(row["share"])) == percent
        }
        if sorted(own) != subjects.tolist():
            raise ValueError(
                f"{path}: segmenter trained on {percent} % of the training subjects: expected scores of the "
                f"{len(subjects)} held-out subjects of the fold, found {len(own)}; run slimdiff-segmenter again"
            )
        found[percent] = Scores(
            *(np.array([int(own[name][count]) for name in subjects], np.int64) for count in COUNTS)
        )
    return found
