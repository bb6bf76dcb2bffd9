"""Which rows are scans of one person: they must not be divided between training and test."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from slimdiff.data.participants import Flag, Participant
from slimdiff.data.sources.columns import same_word
from slimdiff.data.sources.reading import listed
from slimdiff.files import MISSING

NAMES = (
    # BIDS: sub-01_ses-2 is a scan of sub-01.
    re.compile(r"(?P<person>sub-[A-Za-z0-9]+)_.+", re.IGNORECASE),
    # BraTS since 2023: the last number is that of the scan.
    re.compile(r"(?P<person>BraTS-[A-Za-z]+-\d+)-\d{3}", re.IGNORECASE),
)
"""participant_ids that name a person and a scan."""


def person_of(participant_id: str) -> str:
    """The person in a participant_id: `sub-01` of `sub-01_ses-2`; any other name is the person's own."""
    found = [match["person"] for name in NAMES if (match := name.fullmatch(participant_id))]
    return found[0] if found else participant_id


def with_persons(participants: Sequence[Participant]) -> list[Participant]:
    """The participants with their `person`, and with one split for all scans of a person.

    The column `person` of the source counts; without a value it is the person in the participant_id. Scans without a
    split have that of the person's others. Included scans in different splits have the flag two_splits.
    """
    rows = [
        replace(row, person=person_of(row.participant_id)) if row.person == MISSING else row
        for row in participants
    ]
    # Names of one person in two spellings: Sub-01_ses-1 and sub-01_ses-2.
    spelling: dict[str, str] = {}
    rows = [replace(row, person=spelling.setdefault(row.person.casefold(), row.person)) for row in rows]
    splits = defaultdict(dict)
    for row in rows:
        if row.included and row.split != MISSING:
            splits[row.person].setdefault(same_word(row.split), row)
    return [_in_one_split(row, list(splits[row.person].values())) for row in rows]


def _in_one_split(row: Participant, different: Sequence[Participant]) -> Participant:
    if not row.included or not different:
        return row
    if len(different) == 1:
        return replace(row, split=different[0].split)
    found = listed(f"{other.participant_id} in {other.split}" for other in different)
    reason = f"expected one split for all scans of the person {row.person}, found {found}; correct the split"
    return replace(row, flags=(*row.flags, Flag("two_splits", reason)))
