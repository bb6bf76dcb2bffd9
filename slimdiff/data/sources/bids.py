"""A BIDS dataset: sub-*/[ses-*/]anat/sub-*_{suffix}.nii[.gz]."""

import json
from pathlib import Path

from slimdiff.data.participants import DataError, Participant, check_name, first_of, refuse_duplicates
from slimdiff.files import MISSING, read_table

ENDINGS = (".nii.gz", ".nii")


def bids_participants(root: Path, image_suffix: str, mask_suffix: str) -> list[Participant]:
    """Participants of a BIDS dataset: sub-*/[ses-*/]anat/sub-*_{suffix}.nii[.gz].

    Group, site, split and lobe come from participants.tsv where it has them; the acquisition comes from the
    image's own `acq-` entity.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root} is no folder; the BIDS dataset's folder is wanted")
    table = root / "participants.tsv"
    lines = read_table(table, ["participant_id"]) if table.is_file() else []
    refuse_duplicates([line["participant_id"] for line in lines], table)
    described = {line["participant_id"]: line for line in lines}
    rows = []
    for name in sorted({path.name for path in root.glob("sub-*") if path.is_dir()} | described.keys()):
        check_name(name, str(root))
        folder = root / name
        images = _bids_files(folder, image_suffix)
        if not images:
            # It stays in the table with the reason, so that nobody is lost without a word (docs/method.md, F8).
            group = first_of(described.get(name, {}), "group", "diagnosis") or MISSING
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
                group=first_of(row, "group", "diagnosis") or ("patient" if masks else "control"),
                image=images[0],
                mask=masks[0] if masks else None,
                acquisition=entities.get("acq", MISSING),
                site=first_of(row, "site") or MISSING,
                split=first_of(row, "split") or MISSING,
                lobe=first_of(row, "lobe") or MISSING,
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


def without_thick_slices(participant: Participant) -> Participant:
    """Exclude an image that its sidecar calls a 2-D acquisition: its slices are too thick to be resampled."""
    if not participant.included:
        return participant
    facts = _sidecar(participant.image)
    if facts.get("MRAcquisitionType") != "2D":
        return participant
    thickness = facts.get("SliceThickness", "unknown")
    return participant.without(f"2-D acquisition (MRAcquisitionType 2D, slice thickness {thickness} mm)")


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


def refuse_lost_masks(rows: list[Participant], mask_suffix: str) -> None:
    # A patient without its mask would be taken for a control, and its lesion slices for lesion-free ones.
    with_mask = {row.group for row in rows if row.is_patient}
    for row in rows:
        if row.group in with_mask and not row.is_patient:
            raise DataError(
                f"{row.image.parent}: no mask matches _{mask_suffix}, but others of group {row.group} have one; "
                f"exclude {row.participant_id} by name, or use a table where its mask is n/a"
            )
