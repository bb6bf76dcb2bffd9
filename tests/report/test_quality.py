"""The contact sheet of participants: outlines of masks, order, flags and facts."""

import base64
import io
import json
import re

import nibabel
import numpy as np
import pytest
from PIL import Image

from slimdiff.config import study_from_mapping
from slimdiff.data.participants import Participant, write_participants
from slimdiff.data.quality.flags import MEANINGS
from slimdiff.data.quality.planes import write_planes
from slimdiff.files import write_table
from slimdiff.report.quality import Person, Plane, outlined, quality_body, write_sheet

YELLOW = (0xFF, 0xB0, 0x00)


def plane(level: int = 90) -> Plane:
    mask = np.zeros((20, 30), bool)
    mask[5:9, 12:20] = True
    mask[6, 14] = False
    return Plane(np.full((20, 30), level, np.uint8), mask)


def test_the_line_runs_just_outside_of_the_mask_and_covers_no_lesion():
    drawn = outlined(plane())
    line = (drawn == YELLOW).all(axis=2)
    mask = plane().mask
    assert drawn.shape == (40, 60, 3)
    for y in range(40):
        for x in range(60):
            if mask[y // 2, x // 2]:
                assert not line[y, x]
                continue
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            near = any(0 <= j < 40 and 0 <= i < 60 and mask[j // 2, i // 2] for j, i in around)
            assert line[y, x] == near
    assert (drawn[~line] == 90).all()


def person(name: str, verdict: str, reasons=()) -> Person:
    return Person(name, "fcd", verdict, reasons, ["1 x 1 x 1 mm, RAS"], [plane()] * 3, [plane(30)] * 3)


def test_excluded_participants_come_first_then_flagged_ones():
    people = [
        person("sub-1", "ok"),
        person("sub-2", "shown", ["flip_suspected: <left> & right"]),
        person("sub-3", "excluded", ["not_finite: 3 voxels"]),
        person("sub-4", "ok"),
    ]
    html = quality_body(people, {"not_finite": "Voxels are NaN."})
    assert re.findall(r"<b>(sub-\d)</b>", html) == ["sub-3", "sub-2", "sub-1", "sub-4"]
    assert "flip_suspected: &lt;left&gt; &amp; right" in html
    assert "2 without a flag, 1 with a flag that does not exclude, 1 excluded" in html
    assert "<dt>not_finite</dt><dd>Voxels are NaN.</dd>" in html
    assert html.count(", excluded</span>") == 1


def test_pictures_are_embedded_in_the_page_and_show_the_given_planes():
    html = quality_body([person("sub-1", "ok")], {})
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(pictures) == 6 and "http" not in html
    first, fourth = (Image.open(io.BytesIO(base64.b64decode(pictures[i]))).convert("L") for i in (0, 3))
    assert np.asarray(first)[:6].mean() == pytest.approx(90, abs=4)
    assert np.asarray(fourth)[:6].mean() == pytest.approx(30, abs=4)


def test_the_sheet_of_a_study_shows_all_participants_with_the_mask_on_the_lesion(tmp_path):
    """A bright lesion on grey: inside the line the sheet's pixels are bright, around it they are not."""
    study = study_from_mapping({"study": "s", "results_dir": str(tmp_path)}, complete=False)
    paths = study.paths
    volume = np.full((40, 48, 44), -1, np.float32)
    volume[8:32, 8:40, 8:36] = -0.2
    lesion = np.zeros(volume.shape, bool)
    lesion[24:29, 30:36, 20:27] = True
    volume[lesion] = 0.9
    affine = np.diag([2.0, 2, 2, 1])
    paths.volume("a", "image").parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(volume, affine), paths.volume("a", "image"))
    nibabel.save(nibabel.Nifti1Image(lesion.astype(np.uint8), affine), paths.volume("a", "mask"))
    qc = {
        "lesion_ml_source": 1.5,
        "lesion_ml_grid": 1.68,
        "lesion_outside_foreground_share": 0.25,
        "foreground_ml": 172.0,
    }
    paths.volume_json("a").write_text(json.dumps({"qc": qc}))
    for kind in ("image", "mask"):
        paths.volume("b", kind).touch()
    paths.volume_json("b").write_text(json.dumps({"participant": "b", "excluded": "truncated: b.nii.gz"}))
    write_planes(paths.quality_state / "a.npz", [(plane().image, plane().mask)] * 3)
    people = [
        Participant("a", "fcd", tmp_path / "a.nii", tmp_path / "m.nii"),
        Participant("b", "hc", tmp_path / "b.nii", None, excluded="truncated: b.nii.gz"),
        Participant("c", "hc", tmp_path / "c.nii", None, excluded="moved"),
    ]
    write_participants(paths.participants, people)
    columns = ("participant_id", "verdict", "flags", "reasons", "spacing_mm", "orientation")
    rows = [
        {"participant_id": "a", "verdict": "ok", "spacing_mm": "1 x 1 x 4", "orientation": "LPS"},
        {
            "participant_id": "b",
            "verdict": "excluded",
            "flags": "truncated",
            "reasons": "truncated: b.nii.gz; cut; thick_slices: 4 mm",
        },
        {"participant_id": "c", "verdict": "excluded", "reasons": "moved"},
    ]
    write_table(paths.quality, rows, columns)
    write_sheet(study)
    html = (paths.tables / "quality.html").read_text()
    assert re.findall(r"<b>(\w)</b>", html) == ["b", "c", "a"]
    assert re.findall(r'reason alarm">([^<]+)', html) == [
        "truncated: b.nii.gz; cut",
        "thick_slices: 4 mm",
        "moved",
    ]
    for text in ("truncated: b.nii.gz", "moved", "1 x 1 x 4 mm, LPS", "1.68 ml on the grid, 25 % outside"):
        assert text in html
    pictures = re.findall(r'alt="(\w+), (\w+)" title="[^"]+" src="data:image/jpeg;base64,([^"]+)"', html)
    assert [entry[:2] for entry in pictures] == [
        (name, of) for of in ("source", "grid") for name in ("axial", "coronal", "sagittal")
    ]
    for _, _, data in pictures[3:]:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
        line = np.abs(shown - YELLOW).sum(axis=2) < 120
        rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
        inside = shown[rows[0] + 4 : rows[-1] - 3, columns[0] + 4 : columns[-1] - 3]
        assert inside.mean() > 210
    assert all(f"<dt>{flag}</dt>" in html for flag in MEANINGS)
