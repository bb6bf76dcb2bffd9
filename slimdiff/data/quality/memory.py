"""What was measured so far, a participant a file, so that a run that stopped goes on and a mended file alone is read.

`{participant}.json` holds the measurement and what it depends on; `{participant}.npz` the planes for the eye.
"""

import json
from pathlib import Path
from typing import Any

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import PATHS, Participant
from slimdiff.data.quality.measure import MEASUREMENT_VERSION, Measured, look
from slimdiff.data.quality.planes import write_planes
from slimdiff.files import write_text


def remembered(participant: Participant, data: DataConfig, folder: Path) -> Measured | None:
    """The measurement of exactly these files under this configuration, if there is one."""
    try:
        kept = json.loads(record_path(participant, folder).read_text(encoding="utf-8"))
        if kept["depends_on"] != _depends_on(participant, data):
            return None
        measured = Measured.from_dict(kept["measured"])
    except (OSError, ValueError, KeyError, TypeError):
        # Lost or broken state costs one more reading and nothing else.
        return None
    if measured.has_planes and not planes_path(participant.participant_id, folder).is_file():
        return None
    return measured


def measure_and_remember(participant: Participant, data: DataConfig, folder: Path) -> Measured:
    """Measure one participant; the record is written last, so that where it lies all is whole."""
    # Before anything is read: a file that changes meanwhile is read again next time.
    depends_on = _depends_on(participant, data)
    measured, planes = look(participant, data)
    path = planes_path(participant.participant_id, folder)
    if planes is None:
        path.unlink(missing_ok=True)
    else:
        write_planes(path, planes)
    record = {"depends_on": depends_on, "measured": measured.to_dict()}
    write_text(record_path(participant, folder), json.dumps(record, indent=1))
    return measured


def record_path(participant: Participant, folder: Path) -> Path:
    """Of the measurement."""
    return folder / f"{participant.participant_id}.json"


def planes_path(participant_id: str, folder: Path) -> Path:
    """Of the planes; there is none where the image cannot be read."""
    return folder / f"{participant_id}.npz"


def _depends_on(participant: Participant, data: DataConfig) -> dict[str, Any]:
    files = {key: getattr(participant, key) for key in PATHS}
    labels = data.labels
    return {
        "version": MEASUREMENT_VERSION,
        "labels": labels if isinstance(labels, str) else list(labels),
        "mask_grid": data.mask_grid,
        "files": {key: [str(path), *_state(path)] for key, path in files.items() if path},
    }


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns]
