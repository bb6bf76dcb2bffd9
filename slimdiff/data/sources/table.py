"""A TSV or CSV of paths."""

from pathlib import Path

from slimdiff.data.participants import DataError, Participant, check_name, first_of, refuse_duplicates
from slimdiff.files import MISSING, read_table


def table_participants(table: Path) -> list[Participant]:
    """Participants of a TSV or CSV with columns participant_id, image, mask."""
    if not table.is_file():
        raise DataError(f"data.table: {table} is not there")
    try:
        lines = read_table(table, ["participant_id", "image", "mask"])
    except ValueError as error:
        raise DataError(str(error)) from None
    rows = []
    for number, row in enumerate(lines, start=2):
        name = row["participant_id"].strip()
        check_name(name, f"{table}, line {number}")
        image, mask = first_of(row, "image"), first_of(row, "mask")
        if image is None:
            raise DataError(f"{table}, line {number}: {name} has no image")
        paths = [(table.parent / path) if path else None for path in (image, mask)]
        for path in paths:
            if path is not None and not path.is_file():
                raise DataError(f"{table}, line {number}: {name}: {path} is not there")
        group = first_of(row, "group") or ("patient" if mask else "control")
        more = {key: first_of(row, key) or MISSING for key in ("acquisition", "site", "split", "lobe")}
        rows.append(Participant(name, group, paths[0], paths[1], **more))
    refuse_duplicates([row.participant_id for row in rows], table)
    return rows
