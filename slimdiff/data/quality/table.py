"""quality.tsv: everybody's verdict, flags with their reasons, and what was measured.

Columns: participant_id, group, verdict (ok, shown, excluded, error), flags, reasons, then the measurements. `reasons`
has those of the flags, or for somebody left out before a file was read the reason of that.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slimdiff.data.quality.verdicts import Verdict, reason_of
from slimdiff.files import write_table, written

MEASURED = (
    "shape",
    "spacing_mm",
    "orientation",
    "dtype",
    "minimum",
    "maximum",
    "lesion_voxels",
    "lesion_ml",
    "lesion_outside_share",
    "outside_of",
    "lesion_contrast",
    "flip",
    "flip_contrast",
    "wrapped_voxels",
    "clipped_share",
    "mask_moved",
    "image_sha256",
    "mask_sha256",
    "voxel_sha256",
)
COLUMNS = ("participant_id", "group", "verdict", "flags", "reasons", *MEASURED)


def write_quality(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write one row a participant, in the given order."""
    write_table(path, (_row(verdict) for verdict in verdicts), COLUMNS)


def _row(verdict: Verdict) -> dict[str, Any]:
    participant, flags = verdict.participant, (*verdict.stopping, *verdict.shown)
    reasons = reason_of(flags)
    if not participant.included and not verdict.stopping:
        reasons = "; ".join(filter(None, [participant.excluded, reasons]))
    return {
        "participant_id": participant.participant_id,
        "group": participant.group,
        "verdict": verdict.word,
        "flags": ", ".join(flag.name for flag in flags),
        "reasons": reasons,
        **{key: _cell(getattr(verdict.measured, key, None)) for key in MEASURED},
    }


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return " x ".join(str(written(part)) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value
