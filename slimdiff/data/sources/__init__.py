"""Sources of data: each adapter, one per file, returns a list of participants. Later stages do not see the source."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.fetch.download import File, read_file_manifest
from slimdiff.data.participants import DataError, Flag, Participant
from slimdiff.data.sources.bids import (
    bids_participants,
    bids_participants_of,
    suffixes_of,
    without_thick_slices,
)
from slimdiff.data.sources.bids_names import FOLDERS
from slimdiff.data.sources.brats import brats_participants
from slimdiff.data.sources.columns import groups_meant, with_one_spelling
from slimdiff.data.sources.lost_masks import keys_for, masks_in_derivatives, with_lost_masks
from slimdiff.data.sources.modality import refuse_other_modality
from slimdiff.data.sources.nnunet import nnunet_participants
from slimdiff.data.sources.persons import with_persons
from slimdiff.data.sources.reading import NotUtf8, listed, not_utf8
from slimdiff.data.sources.slice_pairs import slices_participants
from slimdiff.data.sources.table import phantom_participants, table_participants
from slimdiff.data.sources.unseen import loose_masks
from slimdiff.files import MISSING, content_hint, printable

FETCHED_GROUPS = {"ds004199": ("fcd", "hc")}
"""Names of the groups with and without a mask in participants.tsv, for each dataset that can be fetched."""


def discover(config: DataConfig, phantom_root: Path) -> list[Participant]:
    """List the participants of the configured source, in a fixed order.

    For the phantom and for a dataset to be fetched, names, paths and exclusions are known before the files exist and do
    not change afterwards. A fault of one participant becomes its flag and raises nothing here; excluded participants
    have no flags. Raises DataError with the folder, table or key, what was expected and what was found.
    """
    try:
        return _discover(config, phantom_root)
    except NotUtf8 as error:
        if config.source != "bids":
            raise
        # One such file seldom comes alone: all of them in one message.
        root, (suffix, _) = Path(config.root), suffixes_of(config)
        sidecars = (path for folder in FOLDERS for path in root.glob(f"{folder}/anat/*_{suffix}.json"))
        others = not_utf8(sorted(path for path in (root / "participants.tsv", *sidecars)))
        raise NotUtf8(list(dict.fromkeys((*error.paths, *others)))) from None


def _discover(config: DataConfig, phantom_root: Path) -> list[Participant]:
    fetched: tuple[File, ...] = ()
    if config.source == "phantom":
        found = phantom_participants(config, phantom_root)
    elif config.source == "bids" and config.fetch.dataset:
        fetched = read_file_manifest(config.fetch.dataset).files_for(config.image_suffix)
        paths = [file.path for file in fetched]
        groups = FETCHED_GROUPS[config.fetch.dataset]
        found = bids_participants_of(paths, Path(config.root), config, groups)
    elif config.source == "bids":
        found = bids_participants(config)
    elif config.source == "nnunet":
        found = nnunet_participants(config)
    elif config.source == "brats":
        found = brats_participants(config)
    elif config.source == "slices":
        found = slices_participants(config)
    else:
        found = table_participants(Path(config.table))
    # By name first, so that a participant with any fault can be excluded by name.
    rows = with_persons(_without_named(with_one_spelling(found), config))
    refuse_other_modality(rows, config)
    if config.source == "bids" and config.two_dimensional == "exclude":
        rows = _without_two_dimensional(rows, fetched, config)
    rows = _of_groups(rows, config.groups)
    mask_suffix = suffixes_of(config)[1] if config.source == "bids" else ""
    if config.source in ("bids", "table", "slices"):
        rows = with_lost_masks(rows, config, mask_suffix)
    if config.source != "phantom" and not config.listed and not fetched:
        rows = [_with_dropped_content(row) if row.included else row for row in rows]
    if not any(row.included and row.is_patient for row in rows):
        # A flag may be the cause.
        reasons = [flag.reason for row in rows if row.included for flag in row.flags]
        where = (
            "data.phantom" if config.source == "phantom" else config.table if config.listed else config.root
        )
        raise DataError(
            f"{where}: the {config.source} source has no subject with a lesion mask ({len(rows)} subjects)"
            + (f"; flags: {listed(reasons)}" if reasons else "")
            + _where_masks_are(config, mask_suffix)
        )
    _refuse_other_names(rows)
    _refuse_names_alike(rows)
    return [row if row.included else replace(row, flags=()) for row in rows]


def _refuse_other_names(rows: Iterable[Participant]) -> None:
    """Raise DataError for paths that no table can hold, because they have bytes that are not UTF-8."""
    paths = [path for row in rows for path in row.files]
    bad = [printable(path) for path in paths if str(path) != printable(path)]
    if bad:
        raise DataError(
            f"{len(bad)} paths have bytes that are not UTF-8 (shown as \\xNN): {listed(bad, 20)}; rename these files "
            "or folders, or link them under other names"
        )


def _refuse_names_alike(rows: Iterable[Participant]) -> None:
    """Raise DataError for included participants whose names differ in case only.

    They may be scans of one person, and their files are the same ones on a disk that does not distinguish case.
    """
    alike: dict[str, list[str]] = {}
    for row in rows:
        if row.included:
            alike.setdefault(row.participant_id.casefold(), []).append(row.participant_id)
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if pairs:
        raise DataError(
            f"expected names of participants that differ in more than case, found {listed(pairs)}; rename one of each, "
            "or exclude it (data.exclude); if they are scans of one person, a column person says so"
        )


def _without_named(participants: list[Participant], config: DataConfig) -> list[Participant]:
    known = {participant.participant_id for participant in participants}
    for name in config.exclude:
        if name not in known:
            raise DataError(f"data.exclude: no participant {name!r} in the {config.source} source")
    return [
        p.without(config.exclude[p.participant_id]) if p.participant_id in config.exclude else p
        for p in participants
    ]


def _without_two_dimensional(
    participants: list[Participant], fetched: Iterable[File], config: DataConfig
) -> list[Participant]:
    kinds = {Path(config.root) / file.path: file.acquisition_type for file in fetched}
    return [
        without_thick_slices(row, kinds.get(row.image, MISSING) if kinds else None) for row in participants
    ]


def _of_groups(participants: list[Participant], groups: tuple[str, ...]) -> list[Participant]:
    meant = groups_meant(groups, {participant.group for participant in participants})
    return [
        p.without(f"group {p.group} is not in data.groups")
        if groups and p.included and p.group not in meant
        else p
        for p in participants
    ]


def _where_masks_are(config: DataConfig, mask_suffix: str) -> str:
    """What an error adds if the lesion masks of a BIDS dataset are in its derivatives."""
    if config.source != "bids" or config.mask_root or config.fetch.dataset:
        return ""
    masks = [mask for own in masks_in_derivatives(Path(config.root), mask_suffix).values() for mask in own]
    if not masks:
        loose = [mask for own in loose_masks(Path(config.root)).values() for mask in own]
        files = listed((str(mask.path) for mask in loose), 2)
        return (
            f". Found {len(loose)} files named as lesion masks: {files}; masks are read from sub-*/[ses-*/]anat of "
            "data.root or data.mask_root as .nii or .nii.gz: move or convert them, or use a table"
            if loose
            else ""
        )
    files = listed((str(mask.path) for mask in masks), 2)
    return f". Found {len(masks)} files named as lesion masks: {files}; to use them, set {keys_for(masks, mask_suffix)}"


def _with_dropped_content(participant: Participant) -> Participant:
    """Flag files whose content was not fetched: broken links, and the pointers of git-annex and Git LFS."""
    hints = {path: content_hint(path) for path in participant.files}
    dropped = tuple(Flag("missing_file", f"{path}: {hint}") for path, hint in hints.items() if hint)
    return replace(participant, flags=participant.flags + dropped) if dropped else participant
