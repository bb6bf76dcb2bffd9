"""Patients without a lesion mask: a lesion that no mask marks must not be learned as healthy tissue (class 0)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import Flag, Participant
from slimdiff.data.sources.bids_names import (
    LESION,
    OTHER,
    BidsFile,
    nearly,
    says_brain,
    sort_files,
    tree_of,
)
from slimdiff.data.sources.columns import PATIENT, role_of, same_word
from slimdiff.files import MISSING

DERIVATIVES = "derivatives"


def with_lost_masks(rows: Sequence[Participant], config: DataConfig, mask_suffix: str) -> list[Participant]:
    """Settle the participants without a mask that may have a lesion, by `data.patients_without_mask`.

    They are the members of a group that has masks, or is named as one of patients, and those without a group where the
    source states one of others. `error`: they have the flag no_mask; `exclude`: they are excluded with a reason;
    `control`: they are controls.
    """
    if config.on_patients_without_mask == "control":
        return list(rows)
    included = [row for row in rows if row.included]
    with_mask = {same_word(row.group) for row in included if row.is_patient}
    stated = any(not row.group_by_mask for row in included)
    settled = []
    for row in rows:
        doubtful = row.included and not row.is_patient
        doubtful = doubtful and not any(flag.name == "no_mask" for flag in row.flags)
        if doubtful and row.group_by_mask and stated:
            others = "it has no group, and others have one"
        elif doubtful and same_word(row.group) in with_mask:
            others = f"others of group {row.group} have one"
        elif doubtful and role_of(row.group) == PATIENT:
            others = f"group {row.group} is one of patients"
        else:
            settled.append(row)
            continue
        settled.append(_settled(row, others, config, mask_suffix))
    return settled


def _settled(row: Participant, others: str, config: DataConfig, mask_suffix: str) -> Participant:
    """The participant, excluded or with a flag; others: why it may have a lesion."""
    name = row.participant_id
    if config.on_patients_without_mask == "exclude":
        return row.without(
            f"no lesion mask, but {others}, so a lesion may be visible (data.patients_without_mask: exclude)"
        )
    folder = Path(config.mask_root) / name if config.mask_root else row.image.parent
    found = (
        f"{config.table}: the mask of {name} is {MISSING}"
        if config.listed
        else f"{config.root}: no mask of {name} fits {config.slices.mask}"
        if config.source == "slices"
        else f"{folder}: no mask matches _{mask_suffix}"
    )
    reason = (
        f"{found}, but {others}; add the mask{' or the group' * row.group_by_mask}, exclude {name} by name, or set "
        "data.patients_without_mask: exclude (control: there is no lesion to see)"
    )
    return replace(row, flags=(*row.flags, Flag("no_mask", reason)))


def masks_in_derivatives(root: Path, mask_suffix: str) -> dict[str, list[BidsFile]]:
    """subject: files in `derivatives` that are named as lesion masks, in order of their paths."""
    found: dict[str, list[BidsFile]] = {}
    folder = root / DERIVATIVES
    inside = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("sub-"))
    for tree in (folder, *inside):
        for subject, files in sort_files(tree_of(tree), tree, {})[OTHER].items():
            named = [
                file
                for file in files
                if (nearly([file], mask_suffix) and not says_brain(file.stem)) or _names_a_lesion(file)
            ]
            if named:
                found.setdefault(subject, []).extend(named)
    return found


def keys_for(masks: Iterable[BidsFile], mask_suffix: str) -> str:
    """The keys of the study that make these files its lesion masks, as text."""
    first = next(iter(masks))
    subject = next(folder for folder in reversed(first.path.parents) if folder.name.startswith("sub-"))
    keys = f"data.mask_root: {subject.parent}"
    if first.stem.endswith(f"_{mask_suffix}"):
        return keys
    parts = first.stem.split("_")
    begin = next((n for n, part in enumerate(parts[1:], start=1) if LESION.search(f"_{part.casefold()}")), -1)
    return f"{keys}, data.mask_suffix: {'_'.join(parts[begin:])}"


def _names_a_lesion(file: BidsFile) -> bool:
    return bool(LESION.search("_" + file.stem.partition("_")[2].casefold()))
