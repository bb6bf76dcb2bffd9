"""participants.tsv: one table for every source, so that all later stages read the same format.

Columns: participant_id, group, image, mask, brain_mask, acquisition, site, split, lobe, person, excluded, then all
further columns of the source. `excluded` is a reason or n/a. Rows with one `person` are scans of one person.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slimdiff.data.stack import SLICES, Stack
from slimdiff.files import MISSING, read_object, read_table, write_table

PATHS = ("image", "mask", "brain_mask")
EMPTY_MASK = "empty_mask"
"""Further column: the empty lesion mask of a participant that counts as a control (`data.empty_mask`)."""
MORE_MASKS = "more_masks"
"""Further column, a JSON list: lesion masks beyond the first one, whose union is the lesion (`data.several_masks`)."""
OF_FILES = (MORE_MASKS, SLICES)
"""Further columns that are the study's own."""
COLUMNS = ("participant_id", "group", *PATHS, "acquisition", "site", "split", "lobe", "person", "excluded")
UNKNOWN = frozenset({"", MISSING, "na", "nan", "#n/a"})
"""Cells that hold no value, in small letters."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class DataError(ValueError):
    """Input data that cannot be used; the message names the file, the cause and what to do."""


@dataclass(frozen=True)
class Flag:
    """A fault of one participant, or a doubt about it."""

    name: str
    """One word; `slimdiff.data.quality.flags` lists them."""
    reason: str
    """The file, what was found, and what was expected."""


@dataclass(frozen=True)
class Participant:
    """One row of participants.tsv. `mask` is None for a subject without a lesion mask."""

    participant_id: str
    group: str
    image: Path
    mask: Path | None
    acquisition: str = MISSING
    site: str = MISSING
    split: str = MISSING
    lobe: str = MISSING
    person: str = MISSING
    """Whose scan it is; n/a: the participant's own. All scans of a person are in one part of a fold."""
    excluded: str = MISSING
    brain_mask: Path | None = None
    group_by_mask: bool = field(default=False, compare=False)
    """The source states no group: `patient` or `control` follows from the mask. Not written to the table."""
    further: dict[str, str] = field(default_factory=dict, hash=False)
    """Further columns of the source: name, value."""
    flags: tuple[Flag, ...] = ()
    """Faults found at discovery; not written to the table."""
    more_masks: tuple[Path, ...] = ()
    """Further lesion masks; the lesion is the union of all."""
    stack: Stack | None = None
    """The slices of a participant whose slices are single files; `image` and `mask` are the first ones."""

    @property
    def is_patient(self) -> bool:
        return self.mask is not None

    @property
    def masks(self) -> tuple[Path, ...]:
        """All lesion masks; empty for a subject without one."""
        if self.mask is not None and self.stack:
            return self.stack.mask_files
        return () if self.mask is None else (self.mask, *self.more_masks)

    @property
    def images(self) -> tuple[Path, ...]:
        """The image's files: several if each slice is one."""
        return self.stack.images if self.stack else (self.image,)

    @property
    def files(self) -> tuple[Path, ...]:
        """Images, lesion masks and brain mask."""
        return tuple(path for path in (*self.images, *self.masks, self.brain_mask) if path)

    @property
    def included(self) -> bool:
        return self.excluded == MISSING

    def without(self, reason: str) -> "Participant":
        """The same participant, excluded for `reason`."""
        return replace(self, excluded=reason or "excluded by name")


def check_name(name: str, where: str) -> None:
    """Raise DataError if a participant_id cannot be part of a file name. `where`: the file or folder."""
    if not NAME.fullmatch(name):
        raise DataError(
            f"{where}: participant_id {name!r} cannot be a file name; expected letters, digits, '_', '.' and '-', "
            "beginning with a letter or digit"
        )


def refuse_duplicates(names: Iterable[str], source: Path) -> None:
    """Raise DataError for a duplicate participant_id."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{source}: duplicate participant {name}; keep one row")
        seen.add(name)


def first_of(row: dict[str, str], *names: str) -> str | None:
    """The first of these columns that has a value."""
    for name in names:
        value = row.get(name, "").strip()
        if value.casefold() not in UNKNOWN:
            return value
    return None


def first_scans(participants: Iterable[Participant]) -> dict[str, str]:
    """participant_id: the first participant_id, in alphabetical order, of all scans of its person.

    This name of a person does not depend on the column `person`: a person with one scan has the name of that scan.
    """
    participants = list(participants)
    scans: dict[str, str] = {}
    for row in participants:
        own = row.participant_id
        scans[_person(row)] = min(own, scans.get(_person(row), own))
    return {row.participant_id: scans[_person(row)] for row in participants}


def _person(row: Participant) -> str:
    return row.participant_id if row.person == MISSING else row.person


def write_participants(path: Path, participants: Iterable[Participant]) -> None:
    """Write participants.tsv. Paths are as configured; mask is n/a for subjects without a lesion mask."""
    participants = list(participants)
    # The study's own value of a column counts, if a source has a column of this name.
    further = [
        row.further
        | ({MORE_MASKS: json.dumps([str(mask) for mask in row.more_masks])} if row.more_masks else {})
        | ({SLICES: row.stack.to_json()} if row.stack else {})
        for row in participants
    ]
    rows = (
        {**more, **{key: getattr(row, key) for key in COLUMNS}, **_paths(row)}
        for row, more in zip(participants, further, strict=True)
    )
    write_table(path, rows, (*COLUMNS, *dict.fromkeys(key for more in further for key in more)))


def _paths(row: Participant) -> dict[str, str | None]:
    return {key: path and str(path) for key in PATHS for path in [getattr(row, key)]}


def _files_in(path: Path, row: dict[str, str], column: str, expected: str, read: Callable[[str], Any]) -> Any:
    """The files of a further column, or None for n/a. Raises ValueError if the cell is damaged."""
    if (cell := row.get(column, MISSING)) == MISSING:
        return None
    try:
        return read(cell)
    except (ValueError, TypeError, LookupError):
        raise ValueError(
            f"{path}: {row['participant_id']}: expected {expected} in column {column}, found "
            f"{cell!r}; run the stage participants again"
        ) from None


def read_participants(path: Path) -> list[Participant]:
    """Read participants.tsv as `write_participants` writes it."""
    rows = []
    for row in read_table(path, ("participant_id", "group", "image", "mask"), ended=True):
        values = {name: row.get(name, MISSING) for name in COLUMNS if name not in PATHS}
        paths = {key: None if row.get(key, MISSING) == MISSING else Path(row[key]) for key in PATHS}
        further = {name: value for name, value in row.items() if name not in (*COLUMNS, *OF_FILES)}
        masks = _files_in(
            path, row, MORE_MASKS, "a JSON list of paths", lambda text: tuple(map(Path, json.loads(text)))
        )
        stack = _files_in(path, row, SLICES, "a JSON object of slices", Stack.from_json)
        rows.append(Participant(**values, **paths, further=further, more_masks=masks or (), stack=stack))
    return rows


NOT_PREPROCESSED = "not_preprocessed"
"""Key of the reason in the preprocessing record, and name of the flag."""


def not_preprocessed(rows: Iterable[Participant], record_of: Callable[[str], Path]) -> dict[str, str]:
    """participant_id: reason, of the included participants whose preprocessing failed.

    record_of(participant_id): the path of its preprocessing record, which may be missing.
    """
    found = {}
    for row in rows:
        path = record_of(row.participant_id)
        if row.included and path.is_file() and (reason := read_object(path).get(NOT_PREPROCESSED)):
            found[row.participant_id] = f"{NOT_PREPROCESSED}: {reason}"
    return found


def read_included(table: Path, record_of: Callable[[str], Path]) -> list[Participant]:
    """The rows of participants.tsv; participants whose preprocessing failed are excluded with the reason."""
    rows = read_participants(table)
    failed = not_preprocessed(rows, record_of)
    return [row.without(failed[row.participant_id]) if row.participant_id in failed else row for row in rows]


def participants_named(table: Path, names: Collection[str]) -> list[Participant]:
    """The rows of participants.tsv with these participant_ids, or all included rows if `names` is empty.

    Raises ValueError for a name that the table lacks.
    """
    rows = read_participants(table)
    unknown = sorted(set(names) - {row.participant_id for row in rows})
    if unknown:
        raise ValueError(f"{table}: no participant {', '.join(map(repr, unknown))}")
    return [row for row in rows if (row.participant_id in names if names else row.included)]
