"""participants.tsv of a BIDS dataset: which row describes which folder."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from slimdiff.data.participants import DataError, Flag
from slimdiff.data.sources.reading import is_there, listed, table_lines, two_splits

PREFIX = "sub-"
READ = ("group", "site", "split", "lobe", "person")
"""Columns of participants.tsv that are read; the acquisition is that of the image's name."""
NUMBER = re.compile(r"(?P<digits>\d+)(?:\.0+)?")


def described(table: Path, subjects: Collection[str]) -> tuple[dict[str, dict[str, str]], dict[str, Flag]]:
    """The first row of each subject in participants.tsv, and flags of those with several splits.

    Both are empty without a table. subjects: names of folders. Raises DataError if no row has a folder.
    """
    if not is_there(table):
        return {}, {}
    lines = table_lines(table, ["participant_id"], READ)
    written = [line["participant_id"] for _, line in lines]
    folder_of = folders_of(written, subjects)
    if lines and subjects and not any(folder_of[name] in subjects for name in written):
        raise DataError(
            f"{table}: expected the names of folders ({listed(sorted(subjects))}) as participant_id, found "
            f"{listed(written)}"
        )
    rows = [(folder_of[name], line) for name, (_, line) in zip(written, lines, strict=True)]
    flags = two_splits(rows, table)
    # The first row of a participant counts; duplicates have a flag.
    return dict(reversed(rows)), flags


def folders_of(names: Iterable[str], subjects: Collection[str]) -> dict[str, str]:
    """participant_id: the folder that it names, or the participant_id itself where there is none.

    Tables often omit the prefix "sub-", and spreadsheets remove the zeros before a number: `1`, `1.0` and `sub-1` name
    the folder sub-001, if no other folder has the number 1.
    """
    by_number = defaultdict(list)
    for subject in subjects:
        if subject.removeprefix(PREFIX).isdecimal():
            by_number[int(subject.removeprefix(PREFIX))].append(subject)
    return {name: _folder_of(name, subjects, by_number) for name in names}


def _folder_of(name: str, subjects: Collection[str], by_number: dict[int, list[str]]) -> str:
    for folder in (name, f"{PREFIX}{name}"):
        if folder in subjects:
            return folder
    number = NUMBER.fullmatch(name.removeprefix(PREFIX))
    same = by_number.get(int(number["digits"]), []) if number else []
    # An ID with more zeros than the folder did not lose any.
    if len(same) == 1 and len(number["digits"]) <= len(same[0].removeprefix(PREFIX)):
        return same[0]
    return name


def refuse_mismatch(
    table: Path, rows: Collection[str], folders: Collection[str], excluded: Collection[str]
) -> None:
    """Raise DataError if there are rows without a folder and folders without a row: IDs may be misspelled.

    Then group, site and split of these folders would be lost. rows, folders: names of subjects. excluded: names in
    `data.exclude`, which are known to have no partner.
    """
    without_folder = sorted(set(rows) - set(folders) - set(excluded))
    without_row = sorted(set(folders) - set(rows) - set(excluded))
    if rows and without_folder and without_row:
        raise DataError(
            f"{table}: {len(without_folder)} rows without a folder ({listed(without_folder)}) and {len(without_row)} "
            f"folders without a row ({listed(without_row)}); correct the IDs, or exclude those of one side by name "
            "(data.exclude)"
        )
