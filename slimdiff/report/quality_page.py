"""The contact sheet of all participants: planes of the source and of the grid, mask outlined, and what was flagged."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from slimdiff.report import markup
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
    """One plane of a volume, isotropic pixels, ready to be looked at: up is anterior or superior, left is left."""

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


def outlined(plane: Plane) -> np.ndarray:
    """uint8 RGB (2H, 2W): the plane at twice its size with a line around its mask, just outside of it."""
    image = plane.image.repeat(SCALE, 0).repeat(SCALE, 1)
    mask = plane.mask.repeat(SCALE, 0).repeat(SCALE, 1)
    edge = ndimage.binary_dilation(mask) & ~mask
    coloured = np.repeat(image[..., None], 3, axis=2)
    coloured[edge] = [int(OUTLINE[i : i + 2], 16) for i in (1, 3, 5)]
    return coloured


def _tile(plane: Plane, label: str) -> str:
    stream = io.BytesIO()
    # Colour at full resolution, or the line would lose it.
    Image.fromarray(outlined(plane)).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<img alt="{markup.text(label)}" title="{markup.text(label)}" src="data:image/jpeg;base64,{data}">'
    )


def _planes(planes: Sequence[Plane], of: str) -> str:
    if not planes:
        return '<td class="quiet">–</td>'
    names = ("axial", "coronal", "sagittal")
    tiles = "".join(_tile(plane, f"{name}, {of}") for plane, name in zip(planes, names, strict=True))
    return f'<td><div class="planes">{tiles}</div></td>'


def sheet(people: Sequence[Person], meanings: Mapping[str, str]) -> str:
    """HTML body: those who are left out first, then those with flags, then the others.

    meanings: what every flag means.
    """
    order = {"excluded": 0, "shown": 1, "ok": 2}
    counted = {kind: sum(person.verdict == kind for person in people) for kind in order}
    head = (
        "<tr><th>participant, flags, facts</th><th>as it came: axial, coronal, sagittal</th>"
        "<th>on the grid, as it is trained on</th></tr>"
    )
    body = []
    for person in sorted(people, key=lambda person: (order[person.verdict], person.name)):
        colour = "alarm" if person.verdict == "excluded" else "shown"
        out = '<span class="alarm">, left out</span>' if person.verdict == "excluded" else ""
        said = "".join(f'<span class="reason {colour}">{markup.text(line)}</span>' for line in person.reasons)
        said += "".join(f'<span class="reason quiet">{markup.text(line)}</span>' for line in person.facts)
        body.append(
            f'<tr class="person"><td><b>{markup.text(person.name)}</b> '
            f'<span class="quiet">{markup.text(person.group)}</span>{out}{said}</td>'
            f"{_planes(person.source, 'source')}{_planes(person.grid, 'grid')}</tr>"
        )
    notes = [
        f"{len(people)} participants: {counted['ok']} without a flag, {counted['shown']} with a flag that is only "
        f"shown, {counted['excluded']} left out.",
        "Planes go through the place where the lesion is largest, without a lesion through the middle; the mask is "
        "outlined. Left is left, up is anterior or superior. Source: each image's own window. Grid: what the network "
        "sees.",
        "Look for outlines beside the lesion, flipped sides, brain that was cut away, skull that was left, broken "
        "intensities. A row without flags was looked at by nobody.",
    ]
    listed = "".join(f"<li>{markup.text(note)}</li>" for note in notes)
    meant = "".join(
        f"<dt>{markup.text(name)}</dt><dd>{markup.text(said)}</dd>" for name, said in meanings.items()
    )
    shown = markup.table(head, body)
    return f'{STYLE}<ul class="notes">{listed}</ul>{shown}<h2>What is looked for</h2><dl>{meant}</dl>'
