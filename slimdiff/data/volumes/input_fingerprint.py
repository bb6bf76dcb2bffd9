"""Input fingerprint of a preprocessed volume: its paths and settings, to decide whether it is out of date.

Snakemake does not re-check a job whose upstream job must run if their edge is `ancient()`. Preprocessing depends on
participants.tsv through such an edge, because adding or removing a participant does not change the other volumes.
Quality control and preprocessing depend on a dataset's fetch in the same way. This module therefore checks whether a
job's own files or settings have changed.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slimdiff.data.participants import EMPTY_MASK, MORE_MASKS, PATHS, Participant, first_of
from slimdiff.data.stack import SLICES
from slimdiff.files import sha256

MADE_OF = "made_of"
"""Key of the fingerprint in the record."""
SOURCES = "source_sha256"
"""Key of the hashes of the participant's files in the record."""
SETTINGS = "settings.txt"
"""File beside the quality-control measurements: the settings that gave participants.tsv."""


def made_of(participant: Participant, settings: str) -> dict[str, Any]:
    """The fingerprint of settings and paths, as hashes. settings: the stage's part of the study (`stage_config`)."""
    files = {key: path and str(path) for key in PATHS for path in [getattr(participant, key)]}
    # A patient whose mask has no lesion may have become a control (`data.empty_mask`).
    files["mask"] = files["mask"] or first_of(participant.further, EMPTY_MASK)
    if participant.more_masks:
        files[MORE_MASKS] = [str(path) for path in participant.more_masks]
    if participant.stack:
        files[SLICES] = participant.stack.to_json()
    return {"settings": short_hash(settings), "files": _hash_of(files)}


def _hash_of(files: dict[str, Any]) -> str:
    # Volumes are passed on, and the folders of their sources are private.
    return short_hash(json.dumps(files, sort_keys=True))


def short_hash(settings: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a stage's settings."""
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def has_changed(record: Path, participant: Participant, settings: str, files: Iterable[Path]) -> bool:
    """Whether the volume's record is missing, has another fingerprint, or one of `files` has other content.

    participant: as discovered. A record without a readable fingerprint counts as unchanged. Only files that are newer
    than the record are read. The record has hashes of the image and of a single mask; a newer file of another kind
    counts as changed.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        recorded, hashes = content[MADE_OF], set(dict(content.get(SOURCES) or {}).values())
        if isinstance(recorded.get("files"), dict):
            # An earlier version recorded the paths.
            recorded["files"] = _hash_of(recorded["files"])
        since = record.stat().st_mtime
    except FileNotFoundError:
        return True
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    newer = (path for path in files if path.is_file() and _time(path) > since)
    return recorded != made_of(participant, settings) or any(sha256(path) not in hashes for path in newer)


def _time(path: Path) -> float:
    # If a link is set to another file, only the time of the link changes.
    return max(path.stat().st_mtime, path.lstat().st_mtime)
