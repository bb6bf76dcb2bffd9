"""What a preprocessed volume was made of, so that anybody can tell whether it would be made the same today.

The engine does not look at a job of its own accord where another one before it has to run and the edge between them is
`ancient`. Preprocessing hangs on participants.tsv by such an edge, because a participant more or less makes nobody
else's volume anew; so whether its own files or settings have changed is asked here.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slimdiff.data.participants import PATHS, Participant

MADE_OF = "made_of"
"""The record's key."""


def made_of(participant: Participant, settings: str) -> dict[str, Any]:
    """Settings and paths as they stand in the record. settings: the stage's part of the study (`stage_config`)."""
    files = {key: path and str(path) for key in PATHS for path in [getattr(participant, key)]}
    return {"settings": hashlib.sha256(settings.encode()).hexdigest()[:16], "files": files}


def has_changed(record: Path, participant: Participant, settings: str, files: Iterable[Path]) -> bool:
    """Whether the volume of this record was made of other paths, by other settings, or before one of `files`.

    False where there is no record, or none that says it: then nothing is known.
    """
    try:
        told = json.loads(record.read_text(encoding="utf-8"))[MADE_OF]
        since = record.stat().st_mtime
    except (OSError, ValueError, LookupError, TypeError):
        return False
    newer = any(path.is_file() and path.stat().st_mtime > since for path in files)
    return newer or told != made_of(participant, settings)
