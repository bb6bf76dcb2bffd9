"""Every source ends in one participants.tsv, so that later stages see one table."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data import phantom
from slimdiff.data.phantom_anatomy import lesion_site
from slimdiff.files import MISSING, read_table, write_table

COLUMNS = ("participant_id", "group", "image", "mask", "acquisition", "site", "split", "lobe", "excluded")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
ENDINGS = (".nii.gz", ".nii")


class DataError(ValueError):
    """Input data that cannot be used; the message names the file, the cause and what to do."""


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
    excluded: str = MISSING

    @property
    def is_patient(self) -> bool:
        return self.mask is not None

    @property
    def included(self) -> bool:
        return self.excluded == MISSING


def discover(config: DataConfig, phantom_root: Path) -> list[Participant]:
    """List the participants of the configured source, in a fixed order.

    The phantom's are known from the configuration alone, before a file exists.
    Raises DataError naming the folder or table, what was found and what is wanted.
    """
    if config.source == "phantom":
        found = phantom_participants(config, phantom_root)
    elif config.source == "bids":
        found = bids_participants(Path(config.root), config.image_suffix, config.mask_suffix)
        if config.two_dimensional == "exclude":
            found = [_without_thick_slices(participant) for participant in found]
    else:
        found = table_participants(Path(config.table))
    found = _of_groups(found, config.groups)
    known = {participant.participant_id for participant in found}
    for name in config.exclude:
        if name not in known:
            raise DataError(f"data.exclude: no participant {name!r} in the {config.source} source")
    rows = [
        _excluded(p, config.exclude[p.participant_id]) if p.participant_id in config.exclude else p
        for p in found
    ]
    if config.source == "bids":
        _refuse_lost_masks([row for row in rows if row.included], config.mask_suffix)
    if not any(row.included and row.is_patient for row in rows):
        raise DataError(
            f"data: the {config.source} source has no subject with a lesion mask ({len(rows)} subjects)"
        )
    return rows


def _without_thick_slices(participant: Participant) -> Participant:
    """Exclude an image that its sidecar calls a 2-D acquisition: its slices are too thick to be resampled."""
    if not participant.included:
        return participant
    facts = _sidecar(participant.image)
    if facts.get("MRAcquisitionType") != "2D":
        return participant
    thickness = facts.get("SliceThickness", "unknown")
    return _excluded(participant, f"2-D acquisition (MRAcquisitionType 2D, slice thickness {thickness} mm)")


def _sidecar(image: Path) -> dict:
    path = image.with_name(f"{image.name.split('.')[0]}.json")
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: a JSON object is wanted, found {type(facts).__name__}")
    return facts


def _of_groups(participants: list[Participant], groups: tuple[str, ...]) -> list[Participant]:
    present = {participant.group for participant in participants}
    for group in groups:
        if group not in present:
            raise DataError(
                f"data.groups: no subject of group {group!r}; there are {', '.join(sorted(present))}"
            )
    return [
        _excluded(p, f"group {p.group} is not in data.groups")
        if groups and p.included and p.group not in groups
        else p
        for p in participants
    ]


def _refuse_lost_masks(rows: list[Participant], mask_suffix: str) -> None:
    # A patient without its mask would be taken for a control, and its lesion slices for lesion-free ones.
    with_mask = {row.group for row in rows if row.is_patient}
    for row in rows:
        if row.group in with_mask and not row.is_patient:
            raise DataError(
                f"{row.image.parent}: no mask matches _{mask_suffix}, but others of group {row.group} have one; "
                f"exclude {row.participant_id} by name, or use a table where its mask is n/a"
            )


def _excluded(participant: Participant, reason: str) -> Participant:
    return Participant(**{**vars(participant), "excluded": reason or "excluded by name"})


def phantom_participants(config: DataConfig, root: Path) -> list[Participant]:
    """The phantom's participants, by the names that `slimdiff-phantom` will write."""
    rows = []
    for name, group in phantom.subject_ids(config.phantom.patients, config.phantom.controls):
        stem = root / name / "anat" / f"{name}_FLAIR"
        mask = stem.with_name(f"{name}_FLAIR_roi.nii.gz") if group == "fcd" else None
        image = stem.with_name(f"{name}_FLAIR.nii.gz")
        lobe = lesion_site(name, config.phantom.seed).lobe if mask else MISSING
        rows.append(Participant(name, group, image, mask, acquisition="phantom", lobe=lobe))
    return rows


def bids_participants(root: Path, image_suffix: str, mask_suffix: str) -> list[Participant]:
    """Participants of a BIDS dataset: sub-*/[ses-*/]anat/sub-*_{suffix}.nii[.gz].

    Group, site, split and lobe come from participants.tsv where it has them; the acquisition comes from the
    image's own `acq-` entity.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root} is no folder; the BIDS dataset's folder is wanted")
    table = root / "participants.tsv"
    lines = read_table(table, ["participant_id"]) if table.is_file() else []
    _refuse_duplicates([line["participant_id"] for line in lines], table)
    described = {line["participant_id"]: line for line in lines}
    rows = []
    for name in sorted({path.name for path in root.glob("sub-*") if path.is_dir()} | described.keys()):
        _check_name(name, str(root))
        folder = root / name
        images = _bids_files(folder, image_suffix)
        if not images:
            # It stays in the table with the reason, so that nobody is lost without a word (docs/method.md, F8).
            group = _first(described.get(name, {}), "group", "diagnosis") or MISSING
            absent = folder / "anat" / f"{name}_{image_suffix}.nii.gz"
            rows.append(Participant(name, group, absent, None, excluded=f"no _{image_suffix} image"))
            continue
        if len(images) > 1:
            names = ", ".join(path.name for path in images)
            raise DataError(
                f"{folder}: {len(images)} images match _{image_suffix}: {names}; keep one or use a table"
            )
        masks = _bids_files(folder, mask_suffix)
        if len(masks) > 1:
            raise DataError(f"{folder}: {len(masks)} masks match _{mask_suffix}; keep one or use a table")
        row = described.get(name, {})
        entities = dict(part.split("-", 1) for part in images[0].name.split("_") if "-" in part)
        rows.append(
            Participant(
                participant_id=name,
                group=_first(row, "group", "diagnosis") or ("patient" if masks else "control"),
                image=images[0],
                mask=masks[0] if masks else None,
                acquisition=entities.get("acq", MISSING),
                site=_first(row, "site") or MISSING,
                split=_first(row, "split") or MISSING,
                lobe=_first(row, "lobe") or MISSING,
            )
        )
    if not any(row.included for row in rows):
        raise DataError(f"{root}: no sub-*/anat/sub-*_{image_suffix}.nii.gz; see data.image_suffix")
    return rows


def _bids_files(folder: Path, suffix: str) -> list[Path]:
    found: list[Path] = []
    for pattern in ("anat", "ses-*/anat"):
        for ending in ENDINGS:
            found += folder.glob(f"{pattern}/{folder.name}_*{suffix}{ending}")
            found += folder.glob(f"{pattern}/{folder.name}_{suffix}{ending}")
    # "*FLAIR" must not take "..._desc-xFLAIR": the suffix stands after an underscore.
    return sorted({path for path in found if path.name.split(".")[0].endswith(f"_{suffix}")})


def _first(row: dict[str, str], *names: str) -> str | None:
    for name in names:
        value = row.get(name, "").strip()
        if value and value != MISSING:
            return value
    return None


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
        _check_name(name, f"{table}, line {number}")
        image, mask = _first(row, "image"), _first(row, "mask")
        if image is None:
            raise DataError(f"{table}, line {number}: {name} has no image")
        paths = [(table.parent / path) if path else None for path in (image, mask)]
        for path in paths:
            if path is not None and not path.is_file():
                raise DataError(f"{table}, line {number}: {name}: {path} is not there")
        group = _first(row, "group") or ("patient" if mask else "control")
        more = {key: _first(row, key) or MISSING for key in ("acquisition", "site", "split", "lobe")}
        rows.append(Participant(name, group, paths[0], paths[1], **more))
    _refuse_duplicates([row.participant_id for row in rows], table)
    return rows


def _check_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise DataError(
            f"{where}: participant_id {name!r} cannot be a file name here; letters, digits, '_', '.' and '-' are "
            "allowed, a letter or digit first"
        )


def _refuse_duplicates(names: Iterable[str], source: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{source}: participant {name} stands there twice")
        seen.add(name)


def write_participants(path: Path, participants: Iterable[Participant]) -> None:
    """Write participants.tsv: participant_id, group, image, mask, acquisition, site, split, lobe, excluded.

    Paths are as configured; mask is n/a for subjects without a lesion mask; `excluded` is a reason or n/a.
    """
    write_table(
        path,
        ({**vars(row), "image": str(row.image), "mask": row.mask and str(row.mask)} for row in participants),
        COLUMNS,
    )


def read_participants(path: Path) -> list[Participant]:
    """Read participants.tsv as `write_participants` writes it."""
    rows = []
    for row in read_table(path, COLUMNS[:4]):
        values = {name: row.get(name, MISSING) for name in COLUMNS if name not in ("image", "mask")}
        mask = None if row["mask"] == MISSING else Path(row["mask"])
        rows.append(Participant(**values, image=Path(row["image"]), mask=mask))
    return rows
