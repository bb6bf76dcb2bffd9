"""Who takes part once everybody has been on the grid: participants.tsv, less those whose preprocessing failed.

With `quality.policy: exclude` a volume in which no brain is found, or whose registration fails, leaves a record with
the reason instead of a volume. Such a participant counts as excluded in everything that comes after.
"""

from collections.abc import Callable
from pathlib import Path

from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Participant, read_participants
from slimdiff.files import read_object

NOT_PREPROCESSED = "not_preprocessed"
"""The record's key for the reason, and the flag's name."""


def read_taking_part(table: Path, record_of: Callable[[str], Path]) -> list[Participant]:
    """The rows of participants.tsv; who could not be preprocessed is excluded with the reason.

    record_of(participant_id): the path of its preprocessing record, which need not be there.
    """
    rows = []
    for row in read_participants(table):
        path = record_of(row.participant_id)
        reason = read_object(path).get(NOT_PREPROCESSED) if row.included and path.is_file() else None
        rows.append(row.without(f"{NOT_PREPROCESSED}: {reason}") if reason else row)
    return rows


def enforce_policy(rows: list[Participant], quality: QualityConfig, flags: frozenset[str]) -> None:
    """Hold to `quality.policy` about those who could not be preprocessed.

    flags: names of all flags; whoever was left out for one counts towards `quality.max_excluded`.
    Raises DataError naming everybody concerned: for policy `error`, and for more than `max_excluded`.
    """
    failed = [row for row in rows if row.excluded.startswith(f"{NOT_PREPROCESSED}: ")]
    flagged = [row for row in rows if row.excluded.split(":")[0] in flags]
    if not failed:
        return
    if quality.policy == "exclude" and len(flagged) <= quality.max_excluded:
        return
    if quality.policy == "error":
        first = f"{len(failed)} of {len(rows)} participants could not be preprocessed"
        ways = "make the stage preprocess again, leave them out by name (data.exclude) or with quality.policy: exclude"
    else:
        first = (
            f"{len(flagged)} of {len(rows)} participants would be left out, but quality.max_excluded is "
            f"{quality.max_excluded}"
        )
        ways = "mend the files, leave them out by name (data.exclude), or raise quality.max_excluded"
    listed = [f"  {row.participant_id}: {row.excluded}" for row in flagged]
    raise DataError("\n".join([f"{first}:", *listed, f"What can be done: {ways}."]))
