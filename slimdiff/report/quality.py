"""The contact sheet of all participants: planes before and after preprocessing, mask outlined, and flags."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from slimdiff.config import Study, StudyPaths
from slimdiff.data.participants import Participant, read_included
from slimdiff.data.quality.flags import MEANINGS
from slimdiff.data.quality.planes import read_planes, three_planes
from slimdiff.data.volumes.read import read_volume, read_volume_header
from slimdiff.files import MISSING, read_object, read_table, write_text
from slimdiff.report import html_page
from slimdiff.report.style import OUTLINE

SCALE = 2
QUALITY = 80
STYLE = """<style>
.planes { display: flex; gap: 2px; background: #000; } .planes img { height: 150px; display: block; }
.person td { vertical-align: top; padding-top: .5rem; } .person { border-top: 1px solid #eee; }
.reason { display: block; white-space: normal; width: 17rem; overflow-wrap: anywhere; } .shown { color: #7a5b00; }
</style>"""


@dataclass(frozen=True)
class Plane:
    """One plane of a volume for display, with isotropic pixels: up is anterior or superior, left is left."""

    image: np.ndarray
    """uint8 (H, W)."""
    mask: np.ndarray
    """bool (H, W)."""


@dataclass(frozen=True)
class Person:
    """One row of the sheet."""

    name: str
    group: str
    verdict: str
    """ok, shown (a flag that does not exclude), excluded."""
    reasons: Sequence[str]
    facts: Sequence[str]
    source: Sequence[Plane]
    grid: Sequence[Plane]


def outlined(plane: Plane, scale: int = SCALE) -> np.ndarray:
    """uint8 RGB (scale * H, scale * W, 3): the enlarged plane with a line around its mask, just outside it."""
    image = plane.image.repeat(scale, 0).repeat(scale, 1)
    mask = plane.mask.repeat(scale, 0).repeat(scale, 1)
    edge = ndimage.binary_dilation(mask) & ~mask
    coloured = np.repeat(image[..., None], 3, axis=2)
    coloured[edge] = [int(OUTLINE[i : i + 2], 16) for i in (1, 3, 5)]
    return coloured


def _tile(plane: Plane, label: str) -> str:
    stream = io.BytesIO()
    # Without colour subsampling, which would blur the outline.
    Image.fromarray(outlined(plane)).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html_page.text(label)}" title="{html_page.text(label)}" src="data:image/jpeg;base64,{data}">'


def _planes(planes: Sequence[Plane], of: str) -> str:
    if not planes:
        return '<td class="quiet">–</td>'
    names = ("axial", "coronal", "sagittal")
    tiles = "".join(_tile(plane, f"{name}, {of}") for plane, name in zip(planes, names, strict=True))
    return f'<td><div class="planes">{tiles}</div></td>'


def quality_body(people: Sequence[Person], meanings: Mapping[str, str]) -> str:
    """HTML body: excluded participants first, then those with flags, then the others.

    meanings: what every flag means.
    """
    order = {"excluded": 0, "shown": 1, "ok": 2}
    counted = {kind: sum(person.verdict == kind for person in people) for kind in order}
    head = (
        "<tr><th>participant, flags, facts</th><th>source: axial, coronal, sagittal</th>"
        "<th>on the grid, as used in training</th></tr>"
    )
    body = []
    for person in sorted(people, key=lambda person: (order[person.verdict], person.name)):
        colour = "alarm" if person.verdict == "excluded" else "shown"
        out = '<span class="alarm">, excluded</span>' if person.verdict == "excluded" else ""
        lines = "".join(
            f'<span class="reason {colour}">{html_page.text(line)}</span>' for line in person.reasons
        )
        lines += "".join(f'<span class="reason quiet">{html_page.text(line)}</span>' for line in person.facts)
        body.append(
            f'<tr class="person"><td><b>{html_page.text(person.name)}</b> '
            f'<span class="quiet">{html_page.text(person.group)}</span>{out}{lines}</td>'
            f"{_planes(person.source, 'source')}{_planes(person.grid, 'grid')}</tr>"
        )
    notes = [
        f"{len(people)} participants: {counted['ok']} without a flag, {counted['shown']} with a flag that does "
        f"not exclude, {counted['excluded']} excluded.",
        "Planes pass through the largest extent of the lesion, without a lesion through the middle; the mask is "
        "outlined. Left is left, up is anterior or superior. Source: a window for each image. Grid: what the network "
        "sees.",
        "Look for misplaced outlines, flipped sides, missing brain, remaining skull and wrong intensities. Rows "
        "without flags were not reviewed by a human.",
    ]
    listed = "".join(f"<li>{html_page.text(note)}</li>" for note in notes)
    meant = "".join(
        f"<dt>{html_page.text(name)}</dt><dd>{html_page.text(meaning)}</dd>"
        for name, meaning in meanings.items()
    )
    shown = html_page.table(head, body)
    return f'{STYLE}<ul class="notes">{listed}</ul>{shown}<h2>Flags</h2><dl>{meant}</dl>'


def write_sheet(study: Study) -> None:
    """Write the contact sheet of all participants of the study, excluded ones too."""
    paths = study.paths
    people = read_included(paths.participants, paths.volume_json)
    rows = {row["participant_id"]: row for row in read_table(paths.quality)}
    body = quality_body(
        [_person(person, rows.get(person.participant_id, {}), paths) for person in people], MEANINGS
    )
    report = study.report
    write_text(
        paths.tables / "quality.html", html_page.page(f"{report.title}: quality control", report.notice, body)
    )


def _person(person: Participant, row: dict[str, str], paths: StudyPaths) -> Person:
    name = person.participant_id
    joined = row.get("reasons", MISSING)
    # One line for each flag; a reason may contain semicolons.
    reasons = [] if joined == MISSING else re.split(rf"; (?=(?:{'|'.join(MEANINGS)}): )", joined)
    if not person.included:
        # A participant whose preprocessing failed has passed quality control.
        late = row.get("verdict", "excluded") != "excluded"
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
        _on_grid(paths.volume(name, "image"), paths.volume(name, "mask")),
    )


def _on_grid(image_path: Path, mask_path: Path) -> Sequence[Plane]:
    # The volumes of an excluded participant are empty files.
    if not image_path.is_file() or not image_path.stat().st_size:
        return []
    values = read_volume(image_path, image_path.name).values
    lesion = read_volume(mask_path, mask_path.name).values > 0
    spacing = np.array(read_volume_header(image_path, image_path.name).get_zooms()[:3], float)
    return [Plane(*plane) for plane in three_planes(values, lesion, spacing, values > -1, window=(-1, 1))]


def _facts(row: dict[str, str], record_path: Path) -> list[str]:
    """Measurements in a few words."""
    facts = []
    if row.get("spacing_mm", MISSING) != MISSING:
        facts.append(f"{row['spacing_mm']} mm, {row.get('orientation', MISSING)}")
    record = read_object(record_path) if record_path.is_file() else {}
    qc = record.get("qc", {})
    if qc.get("lesion_ml_source"):
        outside = qc["lesion_outside_foreground_share"]
        facts.append(
            f"lesion {qc['lesion_ml_source']:.2f} ml, {qc['lesion_ml_grid']:.2f} ml on the grid"
            + (f", {100 * outside:.0f} % outside the brain" if outside else "")
        )
    if qc:
        facts.append(f"brain or head {qc['foreground_ml']:.0f} ml")
    return facts
