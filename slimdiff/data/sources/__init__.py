"""Every source ends in one list of participants; what comes after is free of the source. One adapter a file."""

from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.sources.bids import bids_participants, refuse_lost_masks, without_thick_slices
from slimdiff.data.sources.phantom import phantom_participants
from slimdiff.data.sources.table import table_participants


def discover(config: DataConfig, phantom_root: Path) -> list[Participant]:
    """List the participants of the configured source, in a fixed order.

    The phantom's, and those of a dataset that is to be fetched, are known before a file exists.
    Raises DataError naming the folder or table, what was found and what is wanted.
    """
    if config.source == "phantom":
        found = phantom_participants(config, phantom_root)
    elif config.source == "bids":
        found = bids_participants(
            Path(config.root), config.image_suffix or "FLAIR", config.mask_suffix or "FLAIR_roi"
        )
        if config.two_dimensional == "exclude":
            found = [without_thick_slices(participant) for participant in found]
    else:
        found = table_participants(Path(config.table))
    found = _of_groups(found, config.groups)
    known = {participant.participant_id for participant in found}
    for name in config.exclude:
        if name not in known:
            raise DataError(f"data.exclude: no participant {name!r} in the {config.source} source")
    rows = [
        p.without(config.exclude[p.participant_id]) if p.participant_id in config.exclude else p
        for p in found
    ]
    if config.source == "bids":
        refuse_lost_masks([row for row in rows if row.included], config.mask_suffix or "FLAIR_roi")
    if not any(row.included and row.is_patient for row in rows):
        raise DataError(
            f"data: the {config.source} source has no subject with a lesion mask ({len(rows)} subjects)"
        )
    return rows


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
