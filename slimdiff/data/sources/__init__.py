"""Every source ends in one list of participants; what comes after is free of the source. One adapter a file."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.fetch.download import File, read_file_manifest
from slimdiff.data.participants import DataError, Flag, Participant
from slimdiff.data.sources.bids import (
    bids_participants,
    bids_participants_of,
    with_lost_masks,
    without_thick_slices,
)
from slimdiff.data.sources.brats import brats_participants
from slimdiff.data.sources.nnunet import nnunet_participants
from slimdiff.data.sources.reading import listed
from slimdiff.data.sources.table import phantom_participants, table_participants
from slimdiff.files import MISSING

FETCHED_GROUPS = {"ds004199": ("fcd", "hc")}
"""What the participants.tsv of a dataset that can be fetched calls those with and those without a mask."""


def discover(config: DataConfig, phantom_root: Path) -> list[Participant]:
    """List the participants of the configured source, in a fixed order.

    The phantom's, and those of a dataset that is to be fetched, are known before a file exists, and are the same
    afterwards: names, paths, and who takes part. What is wrong with one participant is its flag, and stops nobody here;
    whoever is excluded has none. Raises DataError naming the folder, table or key, what was found and what is wanted.
    """
    fetched: tuple[File, ...] = ()
    if config.source == "phantom":
        found = phantom_participants(config, phantom_root)
    elif config.source == "bids" and config.fetch.dataset:
        # T1w images concern nobody unless the study is about them.
        with_t1w = config.image_suffix == "T1w" and config.fetch.t1w
        fetched = read_file_manifest(config.fetch.dataset).wanted(with_t1w)
        paths = [file.path for file in fetched]
        groups = FETCHED_GROUPS[config.fetch.dataset]
        found = bids_participants_of(paths, Path(config.root), config, groups)
    elif config.source == "bids":
        found = bids_participants(config)
    elif config.source == "nnunet":
        found = nnunet_participants(config)
    elif config.source == "brats":
        found = brats_participants(config)
    else:
        found = table_participants(Path(config.table))
    # By name first, so that whatever is wrong with a participant can be left behind so.
    rows = _without_named(found, config)
    if config.source == "bids" and config.two_dimensional == "exclude":
        rows = _without_two_dimensional(rows, fetched, config)
    rows = _of_groups(rows, config.groups)
    if config.source == "bids":
        rows = with_lost_masks(rows, config)
    if config.source in ("bids", "nnunet", "brats") and not fetched:
        rows = [_with_dead_links(row) if row.included else row for row in rows]
    if not any(row.included and row.is_patient for row in rows):
        # A flag may be why.
        reasons = [flag.reason for row in rows if row.included for flag in row.flags]
        where = {"table": config.table, "phantom": "data.phantom"}.get(config.source, config.root)
        raise DataError(
            f"{where}: the {config.source} source has no subject with a lesion mask ({len(rows)} subjects)"
            + (f"; found: {listed(reasons)}" if reasons else "")
        )
    return [row if row.included else replace(row, flags=()) for row in rows]


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
    present = {participant.group for participant in participants}
    for group in groups:
        if group not in present:
            raise DataError(
                f"data.groups: no subject of group {group!r}; there are {', '.join(sorted(present))}"
            )
    return [
        p.without(f"group {p.group} is not in data.groups")
        if groups and p.included and p.group not in groups
        else p
        for p in participants
    ]


def _with_dead_links(participant: Participant) -> Participant:
    """Flag files that are links to nowhere, as in a dataset whose contents have not been got yet."""
    paths = (participant.image, participant.mask, participant.brain_mask)
    dead = tuple(
        Flag("missing_file", f"{path} is a link to nowhere; get the file first (datalad get, git annex get)")
        for path in paths
        if path is not None and path.is_symlink() and not path.exists()
    )
    return replace(participant, flags=participant.flags + dead) if dead else participant
