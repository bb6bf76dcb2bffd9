"""Participants from a TSV or CSV of paths, and those of the phantom."""

from dataclasses import replace
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Flag, Participant, check_name, first_of
from slimdiff.data.phantom import cohort
from slimdiff.data.phantom.anatomy import lesion_site
from slimdiff.data.sources.bids_names import ends_with_brain
from slimdiff.data.sources.reading import further_of, stem_of, table_lines, two_splits
from slimdiff.files import MISSING, content_hint

REQUIRED = ("participant_id", "image", "mask")
OPTIONAL = ("brain_mask", "group", "acquisition", "site", "split", "lobe", "person")


def table_participants(table: Path) -> list[Participant]:
    """Participants of a TSV or CSV with columns participant_id, image, mask, and others as in `DataConfig.table`.

    A missing file becomes the flag missing_file, so that all of them are reported at once. Raises DataError for an
    unreadable table, a row without an image or with a brain mask as its lesion, and a duplicate participant_id.
    """
    if not table.is_file():
        raise DataError(f"data.table: {table} {content_hint(table) or 'not found'}")
    rows: dict[str, Participant] = {}
    lines = []
    for number, line in table_lines(table, REQUIRED, OPTIONAL):
        row = _participant(line, table, number)
        name = row.participant_id
        lines.append((name, line))
        # The first row of a participant counts; it gets the flags of its duplicates too.
        rows[name] = replace(rows[name], flags=rows[name].flags + row.flags) if name in rows else row
    flags = two_splits(lines, table)
    return [
        replace(row, flags=(*row.flags, flags[name])) if name in flags else row for name, row in rows.items()
    ]


def _participant(line: dict[str, str], table: Path, number: int) -> Participant:
    name = line["participant_id"]
    where = f"{table}, line {number}"
    check_name(name, where)
    written = {key: first_of(line, key) for key in ("image", "mask", "brain_mask")}
    if written["image"] is None:
        raise DataError(f"{where}: expected a path in column image of {name}, found none")
    paths = {key: table.parent / path if path else None for key, path in written.items()}
    mask = paths["mask"]
    if mask and ends_with_brain(stem_of(mask.name) or mask.name):
        raise DataError(
            f"{where}: expected the lesion mask of {name} in column mask, found {mask}, whose name is that of a brain "
            "mask; write it into column brain_mask, or rename the file"
        )
    flags = []
    for key, path in paths.items():
        try:
            hint = path and content_hint(path)
            if hint or (path and not path.is_file()):
                hint = hint or f"not found{_about(written[key], key)}"
                flags.append(Flag("missing_file", f"{where}: {name}: {path} {hint}"))
        except OSError as error:
            # A name that the file system does not take.
            raise DataError(
                f"{where}: expected a path in column {key} of {name}, found {written[key][:60]!r}: {error.strerror}"
            ) from None
    return Participant(
        participant_id=name,
        group=first_of(line, "group") or ("patient" if paths["mask"] else "control"),
        group_by_mask=first_of(line, "group") is None,
        **paths,
        **{key: first_of(line, key) or MISSING for key in ("acquisition", "site", "split", "lobe", "person")},
        further=further_of(line),
        flags=tuple(flags),
    )


def _about(cell: str, column: str) -> str:
    """What may be wrong with a path that leads to no file, as text."""
    if "\\" in cell:
        return "; write / instead of \\ in paths"
    if column != "image" and not set("/.") & set(cell):
        return f"; if there is no {column}, write {MISSING}"
    return "" if Path(cell).is_absolute() else "; paths are relative to the folder of the table"


def phantom_participants(config: DataConfig, root: Path) -> list[Participant]:
    """Participants of the phantom, with the names that `slimdiff-phantom` writes."""
    rows = []
    for name, group in cohort.subject_ids(config.phantom.patients, config.phantom.controls):
        stem = root / name / "anat" / f"{name}_FLAIR"
        mask = stem.with_name(f"{name}_FLAIR_roi.nii.gz") if group == "fcd" else None
        image = stem.with_name(f"{name}_FLAIR.nii.gz")
        lobe = lesion_site(name, config.phantom.seed).lobe if mask else MISSING
        rows.append(Participant(name, group, image, mask, acquisition="phantom", lobe=lobe))
    return rows
