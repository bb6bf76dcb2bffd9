"""Split persons into folds, each with train, val and test; all scans and slices of a person are in the same part.

Writes `folds.tsv`: participant, fold, split, stratified_by, stratum.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from slimdiff.config.checks import check_fold_count
from slimdiff.config.folds import FoldsConfig
from slimdiff.data.participants import DataError, Participant, first_scans
from slimdiff.files import MISSING, read_object, read_table, write_table

COLUMNS = ("participant", "fold", "split", "stratified_by", "stratum")
MIN_SUBJECTS_FOR_VAL = 4


def persons(participants: Sequence[Participant]) -> dict[str, list[Participant]]:
    """The scans of every person, by the first participant_id of the person; persons in the order of the participants.

    Raises DataError if scans of one person are in different splits of the dataset.
    """
    first, scans = first_scans(participants), defaultdict(list)
    for row in participants:
        scans[first[row.participant_id]].append(row)
    for rows in scans.values():
        splits = {row.split.lower() for row in rows} - {MISSING}
        if len(splits) > 1:
            found = ", ".join(f"{row.participant_id} in {row.split}" for row in rows)
            person = rows[0].person
            raise DataError(f"split: expected one split for all scans of the person {person}, found {found}")
    return dict(scans)


def one_of_each(participants: Sequence[Participant]) -> list[Participant]:
    """One row for each person: a patient if one of the scans has a lesion mask, in the split of any of the scans."""
    found = []
    for name, rows in persons(participants).items():
        chosen = next((row for row in rows if row.is_patient), rows[0])
        split = next((row.split for row in rows if row.split != MISSING), MISSING)
        found.append(replace(chosen, participant_id=name, split=split))
    return found


def stratification(
    participants: Sequence[Participant], lesion_ml: dict[str, float], config: FoldsConfig
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The keys used for stratification, and each participant's stratum.

    Keys are tried in order. A key is skipped if all participants have the same value, or if a stratum would have fewer
    subjects than folds.
    """
    volumes = sorted(lesion_ml[p.participant_id] for p in participants if p.is_patient)
    terciles = np.quantile(volumes, (1 / 3, 2 / 3)) if volumes else (0, 0)
    values = {
        p.participant_id: {
            "group": "patient" if p.is_patient else "control",
            "acquisition": p.acquisition,
            "lesion_tercile": str(np.searchsorted(terciles, lesion_ml[p.participant_id]))
            if p.is_patient
            else MISSING,
            "lobe": p.lobe,
        }
        for p in participants
    }
    held: tuple[str, ...] = ()
    strata = {p.participant_id: "all" for p in participants}
    for key in config.stratify_by:
        trial = {name: "|".join(row[k] for k in (*held, key)) for name, row in values.items()}
        sizes = Counter(trial.values())
        if len(sizes) > len(set(strata.values())) and min(sizes.values()) >= config.k:
            held, strata = (*held, key), trial
    return held, strata


def make_folds(
    participants: Sequence[Participant], lesion_ml: dict[str, float], config: FoldsConfig
) -> list[dict[str, Any]]:
    """Rows of folds.tsv for the included participants.

    lesion_ml: lesion volume of every participant, ml. With `use_split` every fold has the dataset's own test part.
    Folds are dealt by persons: the scans of a person count once, with the largest lesion.
    Raises ConfigError or DataError if a fold would have no patient in its test or training part.
    """
    scans = persons([p for p in participants if p.included])
    participants = one_of_each([p for p in participants if p.included])
    lesion_ml = {name: max(lesion_ml[row.participant_id] for row in rows) for name, rows in scans.items()}
    rows = []
    for row in _by_person(participants, lesion_ml, config):
        rows += [{**row, "participant": scan.participant_id} for scan in scans[row["participant"]]]
    return rows


def _by_person(
    participants: Sequence[Participant], lesion_ml: dict[str, float], config: FoldsConfig
) -> list[dict[str, Any]]:
    """`make_folds` of one row for each person."""
    held, strata = stratification(participants, lesion_ml, config)
    rng = np.random.default_rng(config.seed)
    if config.use_split:
        fixed_test = check_split(participants, config.k)
        rest = [p for p in participants if p.participant_id not in fixed_test]
        rotating = _deal(rest, strata, config.k, rng)
    else:
        check_fold_count(
            config.k, sum(p.is_patient for p in participants), sum(not p.is_patient for p in participants)
        )
        fixed_test, rotating = set(), _deal(participants, strata, config.k, rng)
    patients = {p.participant_id for p in participants if p.is_patient}
    rows = []
    for fold in range(config.k):
        own = {name for name, part in rotating.items() if part == fold}
        if config.use_split and config.k > 1:
            test, val = fixed_test, own
        else:
            test = fixed_test or own
            val = _validation(
                [p.participant_id for p in participants if p.participant_id not in test],
                patients,
                config,
                rng,
            )
        if not test & patients or not patients - test - val:
            raise DataError(
                f"folds: expected patients in the test and training parts of fold {fold}, found "
                f"{len(test & patients)} and {len(patients - test - val)}; see folds.k, folds.use_split, data.exclude"
            )
        for participant in participants:
            name = participant.participant_id
            split = "test" if name in test else "val" if name in val else "train"
            rows.append(
                {
                    "participant": name,
                    "fold": fold,
                    "split": split,
                    "stratified_by": ",".join(held) or "none",
                    "stratum": strata[name],
                }
            )
    return rows


def check_split(participants: Sequence[Participant], k: int) -> set[str]:
    """The participants of the dataset's own test part; raises DataError if `use_split` cannot work with it.

    participants: one for each person (`one_of_each`).
    """
    fixed_test = {p.participant_id for p in participants if p.split.lower() == "test"}
    rest = len(participants) - len(fixed_test)
    if not fixed_test or not rest:
        raise DataError(
            f"folds.use_split: expected split test for some participants but not for all, found {len(fixed_test)} of "
            f"{len(participants)}"
        )
    if k > rest:
        raise DataError(
            f"folds.k: expected at most {rest} folds, because {rest} participants are not in the split test, found {k}"
        )
    return fixed_test


def _deal(
    participants: Sequence[Participant], strata: dict[str, str], k: int, rng: np.random.Generator
) -> dict[str, int]:
    # One count over all strata: the sizes of the folds differ by at most one. Patients come first, so that every fold
    # gets one.
    members = defaultdict(list)
    for participant in participants:
        name = participant.participant_id
        members[not participant.is_patient, strata[name]].append(name)
    dealt, position = {}, 0
    for stratum in sorted(members):
        for name in rng.permutation(sorted(members[stratum])):
            dealt[str(name)] = position % k
            position += 1
    return dealt


def _validation(
    rest: list[str], patients: set[str], config: FoldsConfig, rng: np.random.Generator
) -> set[str]:
    count = max(1, round(config.val_fraction * len(rest)))
    if len(rest) < MIN_SUBJECTS_FOR_VAL or config.val_fraction == 0:
        return set()
    shuffled = [str(name) for name in rng.permutation(sorted(rest))]
    with_lesion = [name for name in shuffled if name in patients]
    without = [name for name in shuffled if name not in patients]
    # At least one patient stays for training.
    n_patients = min(max(1, round(count * len(with_lesion) / len(rest))), len(with_lesion) - 1)
    return set(with_lesion[:n_patients] + without[: count - n_patients])


def write_folds(path: Path, rows: list[dict]) -> None:
    """Write folds.tsv."""
    write_table(path, rows, COLUMNS)


def read_folds(path: Path, fold: int) -> dict[str, list[str]]:
    """Participants of one fold: {"train": [...], "val": [...], "test": [...]}."""
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, row in enumerate(read_table(path, COLUMNS, ended=True), start=2):
        # Python refuses to convert thousands of digits.
        if not re.fullmatch("[0-9]{1,9}", row["fold"]) or row["split"] not in parts:
            raise ValueError(
                f"{path}, line {number}: expected a whole number as fold and {', '.join(parts)} as split, found fold "
                f"{row['fold'][:60]!r}, split {row['split'][:60]!r}"
            )
        if int(row["fold"]) == fold:
            parts[row["split"]].append(row["participant"])
    if not parts["train"]:
        raise ValueError(f"{path}: no fold {fold}")
    return parts


def training_participants(path: Path) -> list[str]:
    """Participants in the training part of at least one fold."""
    return sorted(
        {row["participant"] for row in read_table(path, COLUMNS, ended=True) if row["split"] == "train"}
    )


def lesion_volumes(json_paths: dict[str, Path]) -> dict[str, float]:
    """Lesion volume on the grid, in ml, of every participant from its preprocess record."""
    volumes = {}
    for name, path in json_paths.items():
        try:
            volumes[name] = float(read_object(path)["qc"]["lesion_ml_grid"])
        except (KeyError, TypeError):
            raise ValueError(f"{path}: no qc.lesion_ml_grid; run the preprocess stage again") from None
    return volumes
