"""What a preprocessed volume was made of, so that anybody can tell whether it would be made the same today.

The engine does not look at a job of its own accord where another one before it has to run and the edge between them is
`ancient`. Preprocessing hangs on participants.tsv by such an edge, because a participant more or less makes nobody
else's volume anew, and both hang so on a dataset's fetch; so whether their own files or settings have changed is asked
here.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slimdiff.data.participants import EMPTY_MASK, PATHS, Participant, first_of

MADE_OF = "made_of"
"""The record's key."""
SETTINGS = "settings.txt"
"""Beside the measurements of quality control: by which settings participants.tsv was made."""


def made_of(participant: Participant, settings: str) -> dict[str, Any]:
    """Settings and paths as they stand in the record. settings: the stage's part of the study (`stage_config`)."""
    files = {key: path and str(path) for key in PATHS for path in [getattr(participant, key)]}
    # A control now, whose mask was looked at and had no lesion.
    files["mask"] = files["mask"] or first_of(participant.further, EMPTY_MASK)
    return {"settings": short_hash(settings), "files": files}


def short_hash(settings: str) -> str:
    """Of a stage's part of the study."""
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def has_changed(record: Path, participant: Participant, settings: str, files: Iterable[Path]) -> bool:
    """Whether the volume of this record is missing, or was made of other paths, by other settings, before `files`.

    participant: as discovered. False where the record does not say what it was made of: then nothing is known.
    """
    try:
        told = json.loads(record.read_text(encoding="utf-8"))[MADE_OF]
        since = record.stat().st_mtime
    except FileNotFoundError:
        return True
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return told != made_of(participant, settings) or any(
        _time(path) > since for path in files if path.is_file()
    )


def _time(path: Path) -> float:
    # A link that is pointed at another file is as new as the link.
    return max(path.stat().st_mtime, path.lstat().st_mtime)
