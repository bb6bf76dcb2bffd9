"""Columns and values of a source's tables, matched without case and by synonyms.

A column that is not recognised would lose the group of every participant, and a value in another spelling would make a
group of its own, whose lost masks are not noticed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from slimdiff.data.participants import COLUMNS, DataError, Participant
from slimdiff.files import MISSING

SYNONYMS = {
    "group": (
        *("group", "diagnosis", "dx", "dx_group", "diagnostic_group", "diagnosis_group", "patient_group"),
        *("participant_group", "subject_group", "clinical_group", "groups", "diagnoses"),
    ),
    "site": (
        *("site", "site_id", "center", "centre", "center_id", "centre_id"),
        *("hospital", "institution", "sites"),
    ),
    "split": ("split", "data_split", "dataset_split", "partition", "subset"),
    "person": ("person", "person_id", "patient_id", "subject_id", "subject"),
    "lobe": ("lobe", "lesion_lobe"),
    "acquisition": ("acquisition", "acq"),
}
"""Column of participants.tsv: columns of a source that are read as it. The first one with a value counts."""
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev", "development"),
    "test": ("test", "testing", "held out", "hold out"),
}
CONTROL = "control"
PATIENT = "patient"
ROLES = {
    CONTROL: (
        *("control", "healthy control", "normal control", "healthy", "normal", "hc", "nc", "cn", "ctrl"),
        *("ctl", "con", "healthy volunteer", "volunteer", "hv", "td", "typically developing", "non-patient"),
    ),
    PATIENT: ("patient", "case", "pat", "pt"),
}
"""Words that say whether the members of a group are controls or patients."""
BETWEEN = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
WHOLE = re.compile(r"(-?)0*(\d+)(\.0+)?")


def same_word(value: str) -> str:
    """What all spellings of a value share: case, separators, quotes, plural and zeros of a number do not count.

    "FCD II", "fcd-ii" and "fcd_II" are one value; "MRI+" and "MRI-" are two.
    """
    text = value.strip().strip("\"'").strip().casefold()
    if number := WHOLE.fullmatch(text):
        return f"{number[1]}{number[2]}"
    text = BETWEEN.sub(" ", text)
    return text.removesuffix("s") if len(text) > 4 else text


ROLE_OF = {same_word(word): role for role, words in ROLES.items() for word in words}
SPLIT_OF = {same_word(word): split for split, words in SPLITS.items() for word in words}
MEANING_OF = {name: column for column, names in SYNONYMS.items() for name in names}


def role_of(group: str) -> str | None:
    """`control` or `patient` if the name of the group says so."""
    return ROLE_OF.get(same_word(group))


def plain_name(column: str) -> str:
    """A column's name in small letters, with one underscore instead of spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", column.strip().casefold())


def meaning_of(column: str) -> str | None:
    """The column of participants.tsv that a column of a source is read as."""
    name = plain_name(column)
    return MEANING_OF.get(name, name if name in COLUMNS else None)


def read_as(header: Iterable[str], where: str) -> dict[str, tuple[str, ...]]:
    """Column of participants.tsv: the columns of this header that are read as it, the first choice first.

    Raises DataError if two columns have one name but for case and separators. where: the file.
    """
    plain: dict[str, str] = {}
    for column in header:
        if not column.strip():
            continue
        other = plain.setdefault(plain_name(column), column)
        if other != column and meaning_of(column):
            raise DataError(f"{where}: columns {other!r} and {column!r} have one meaning; keep one")
    found = {column: (plain[column],) for column in COLUMNS if column in plain}
    for column, names in SYNONYMS.items():
        if present := tuple(plain[name] for name in names if name in plain):
            found[column] = present
    return found


def split_word(value: str) -> str:
    """`train`, `val` or `test` in any spelling; any other value is unchanged."""
    return SPLIT_OF.get(same_word(value), value)


def with_one_spelling(participants: Sequence[Participant]) -> list[Participant]:
    """The participants with one spelling, the most frequent, of every group, site, person, acquisition and lobe."""
    rows = list(participants)
    for key in ("group", "site", "person", "acquisition", "lobe"):
        counts = Counter(getattr(row, key) for row in rows)
        # Of spellings that are equally frequent, the first in the order of characters.
        ordered = sorted(counts, key=lambda value: (-counts[value], value))
        chosen: dict[str, str] = {}
        for value in ordered:
            chosen.setdefault(MISSING if value == MISSING else same_word(value), value)
        rows = [
            row if getattr(row, key) == one else replace(row, **{key: one})
            for row in rows
            for value in [getattr(row, key)]
            for one in [value if value == MISSING else chosen[same_word(value)]]
        ]
    return rows


def groups_meant(wanted: Sequence[str], present: Iterable[str]) -> set[str]:
    """The groups of `present` that `data.groups` names: by name, otherwise by a synonym of patient or control.

    Raises DataError for a name without a group, and for a synonym that fits several groups.
    """
    by_word = {same_word(group): group for group in present}
    meant = set()
    for name in wanted:
        if same_word(name) in by_word:
            meant.add(by_word[same_word(name)])
            continue
        role = role_of(name)
        alike = sorted(group for group in by_word.values() if role and role_of(group) == role)
        if len(alike) != 1:
            several = f", which may mean {' or '.join(alike)}" if alike else ""
            raise DataError(
                f"data.groups: expected groups of {', '.join(sorted(by_word.values()))}, found {name!r}{several}"
            )
        meant.add(alike[0])
    return meant
