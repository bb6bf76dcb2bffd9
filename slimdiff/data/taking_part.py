"""Who takes part once everybody has been on the grid: participants.tsv, less those whose preprocessing failed.

With `quality.policy: exclude` a volume in which no brain is found, or whose registration fails, leaves a record with
the reason instead of a volume. Such a participant counts as excluded in everything that comes after.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Participant, read_participants
from slimdiff.files import MISSING, read_object, read_table

NOT_PREPROCESSED = "not_preprocessed"
"""The record's key for the reason, and the flag's name."""


def not_preprocessed(rows: Iterable[Participant], record_of: Callable[[str], Path]) -> dict[str, str]:
    """participant_id: why, of those who take part by these rows of participants.tsv and could not be preprocessed.

    record_of(participant_id): the path of its preprocessing record, which need not be there.
    """
    found = {}
    for row in rows:
        path = record_of(row.participant_id)
        if row.included and path.is_file() and (reason := read_object(path).get(NOT_PREPROCESSED)):
            found[row.participant_id] = f"{NOT_PREPROCESSED}: {reason}"
    return found


def read_taking_part(table: Path, record_of: Callable[[str], Path]) -> list[Participant]:
    """The rows of participants.tsv; who could not be preprocessed is excluded with the reason."""
    rows = read_participants(table)
    failed = not_preprocessed(rows, record_of)
    return [row.without(failed[row.participant_id]) if row.participant_id in failed else row for row in rows]


def left_out_for_flags(quality: Path) -> dict[str, str]:
    """participant_id: flags with their reasons, of those whom quality control left out; not of those left out by name.

    quality: quality.tsv, which need not be there.
    """
    if not quality.is_file():
        return {}
    rows = read_table(quality, ("participant_id", "verdict", "flags", "reasons"))
    flagged = [row for row in rows if row["verdict"] == "excluded" and row["flags"] != MISSING]
    return {row["participant_id"]: row["reasons"] for row in flagged}


def enforce_policy(failed: dict[str, str], flagged: dict[str, str], quality: QualityConfig) -> None:
    """Hold to `quality.policy` about those who could not be preprocessed.

    failed, flagged: as `not_preprocessed` and `left_out_for_flags` give them; together they count towards
    `quality.max_excluded`.
    Raises DataError naming everybody concerned: for policy `error`, and for more than `max_excluded`.
    """
    everybody = {**flagged, **failed}
    if not failed or (quality.policy == "exclude" and len(everybody) <= quality.max_excluded):
        return
    if quality.policy == "error":
        first = f"{len(failed)} participants could not be preprocessed"
        ways = "make the stage preprocess again, leave them out by name (data.exclude) or with quality.policy: exclude"
    else:
        first = f"{len(everybody)} participants would be left out, but quality.max_excluded is {quality.max_excluded}"
        ways = "mend the files, leave them out by name (data.exclude), or raise quality.max_excluded"
    listed = [f"  {name}: {reason}" for name, reason in everybody.items()]
    raise DataError("\n".join([f"{first}:", *listed, f"What can be done: {ways}."]))
