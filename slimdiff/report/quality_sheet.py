"""`tables/quality.html` from quality.tsv, the planes of the source, and the volumes on the grid."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from slimdiff.config import Study, StudyPaths
from slimdiff.data.participants import Participant
from slimdiff.data.quality.flags import MEANINGS
from slimdiff.data.quality.planes import read_planes, three_planes
from slimdiff.data.taking_part import NOT_PREPROCESSED, read_taking_part
from slimdiff.files import MISSING, read_table, write_text
from slimdiff.report import markup
from slimdiff.report.quality_page import Person, Plane, sheet


def write_sheet(study: Study) -> None:
    """Write the contact sheet of every participant of the study, of those who were left out too."""
    paths = study.paths
    people = read_taking_part(paths.participants, paths.volume_json)
    rows = {row["participant_id"]: row for row in read_table(paths.quality)}
    body = sheet([_person(person, rows.get(person.participant_id, {}), paths) for person in people], MEANINGS)
    report = study.report
    write_text(
        paths.tables / "quality.html", markup.page(f"{report.title}: quality control", report.notice, body)
    )


def _person(person: Participant, row: dict[str, str], paths: StudyPaths) -> Person:
    name = person.participant_id
    said = row.get("reasons", MISSING)
    # One line a flag; a reason may have semicolons of its own.
    reasons = [] if said == MISSING else re.split(rf"; (?=(?:{'|'.join(MEANINGS)}): )", said)
    if not person.included:
        # Who could not be preprocessed passed quality control.
        late = person.excluded.startswith(f"{NOT_PREPROCESSED}: ")
        verdict = "excluded"
        reasons = [*reasons, person.excluded] if late else reasons or [person.excluded]
    else:
        verdict = "shown" if reasons else "ok"
    state = paths.quality_state / f"{name}.npz"
    return Person(
        name,
        person.group,
        verdict,
        reasons,
        _facts(row, paths.volume_json(name)),
        [Plane(*plane) for plane in read_planes(state)] if state.is_file() else [],
        _on_grid(paths.volume(name, "FLAIR"), paths.volume(name, "mask")),
    )


def _on_grid(image_path: Path, mask_path: Path) -> Sequence[Plane]:
    # An excluded participant's volumes are empty files.
    if not image_path.is_file() or not image_path.stat().st_size:
        return []
    image = nibabel.load(image_path)
    values = np.asarray(image.dataobj, np.float32)
    lesion = np.asarray(nibabel.load(mask_path).dataobj) > 0
    spacing = np.array(image.header.get_zooms()[:3], float)
    return [Plane(*plane) for plane in three_planes(values, lesion, spacing, values > -1, window=(-1, 1))]


def _facts(row: dict[str, str], record_path: Path) -> list[str]:
    """What was measured, in a few words."""
    facts = []
    if row.get("spacing_mm", MISSING) != MISSING:
        facts.append(f"{row['spacing_mm']} mm, {row.get('orientation', MISSING)}")
    record = json.loads(record_path.read_text(encoding="utf-8")) if record_path.is_file() else {}
    qc = record.get("qc", {})
    if qc.get("lesion_ml_source"):
        outside = qc["lesion_outside_foreground_share"]
        facts.append(
            f"lesion {qc['lesion_ml_source']:.2f} ml, {qc['lesion_ml_grid']:.2f} ml on the grid"
            + (f", {100 * outside:.0f} % outside of the brain" if outside else "")
        )
    if qc:
        facts.append(f"brain or head {qc['foreground_ml']:.0f} ml")
    return facts
