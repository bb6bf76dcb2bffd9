"""Heads that a z-range by slice numbers misses, or at other heights than the cohort's: shown, never stopped."""

import nibabel
import numpy as np
import pytest
from helpers.synthetic import save_nifti

from slimdiff.config import study_from_mapping
from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.quality.exclusion import verdicts
from slimdiff.data.quality.field_of_view import Slicing, head_extent, other_heights
from slimdiff.data.quality.measure import Measured, measure

PAPER = Slicing.of(study_from_mapping({}))
AUTO = Slicing(by_number=True)


def heads(*tops: float, height: float = 150.0) -> dict[str, Measured]:
    return {f"p{number}": Measured(head_mm=(top - height, top)) for number, top in enumerate(tops)}


def test_the_z_range_in_mm_about_the_grid_s_centre():
    assert PAPER.by_number and PAPER.z_range_mm == pytest.approx((-56.875, 44.375))
    thick = study_from_mapping(
        {
            "preprocess": {"spacing_mm": [1, 1, 4], "grid": [160, 160, 41]},
            "slices": {"z_range": [10, 30], "n_bins": 9},
        }
    )
    assert Slicing.of(thick).z_range_mm == (-40, 40)
    for values in (
        {"preprocess": {"registration": {"transform": "rigid"}}},
        {"slices": {"height": "mm"}},
        {"preprocess": {"spacing_mm": [1, 1, "native"]}},
    ):
        slicing = Slicing.of(study_from_mapping(values))
        assert not slicing.by_number and other_heights(heads(0, 300), slicing) == {}
    assert Slicing.of(study_from_mapping({"slices": {"z_range": "auto"}})) == AUTO


@pytest.mark.parametrize(
    ("bottom", "top", "missed"),
    [(-80, 69, False), (-80, 70, True), (-57, 100, True), (-50, 100, False), (-200, 44, False)],
)
def test_a_head_through_both_ends_misses_its_vertex(bottom, top, missed):
    found = other_heights({"a": Measured(head_mm=(bottom, top))}, PAPER)
    assert list(found) == (["a"] if missed else [])
    if missed:
        assert (
            f"{top - 44.375:.0f} mm above it" in found["a"] and "registration.transform: rigid" in found["a"]
        )
    assert other_heights({"a": Measured(head_mm=(bottom, top))}, AUTO) == {}


def test_heads_at_heights_that_differ_by_over_20_mm():
    assert other_heights(heads(60, 62, 70, 80), AUTO) == {}
    found = other_heights(heads(60, 62, 64, 81) | {"unread": Measured()}, AUTO)
    assert list(found) == ["p3"]
    assert "18 mm above the cohort's median" in found["p3"] and "differ by 21 mm" in found["p3"]
    assert list(other_heights(heads(50, 71), AUTO)) == ["p0", "p1"]


def test_the_extent_of_a_head_ignores_a_few_voxels():
    inside = np.zeros((20, 20, 30), bool)
    inside[5:15, 5:15, 8:20] = True
    inside[5, 5:9, 25] = True  # 4 % of the largest area
    assert head_extent(inside, 2.0) == ((8 - 14.5) * 2, (19 - 14.5) * 2)
    assert head_extent(inside & False, 2.0) is None


def wide(folder, name: str, below: int, orientation: str) -> Participant:
    """A head of 150 mm just below the top of the volume, and `below` slices of neck under it; voxels of 5 mm."""
    x, y, z = np.meshgrid(np.arange(44) - 22, np.arange(48) - 24, np.arange(30 + below + 2), indexing="ij")
    head = (x / 14) ** 2 + (y / 17) ** 2 + ((z - below - 15) / 15) ** 2 < 1
    neck = (x / 7) ** 2 + (y / 7) ** 2 + 0 * z < 1
    values = np.where(head | (neck & (z < below + 15)), 100, 0).astype(np.float32)
    values += np.random.default_rng(below).normal(0, 1, values.shape).astype(np.float32)
    lesion = (abs(x - 3) < 2) & (abs(y) < 2) & (abs(z - below - 18) < 2)
    values[lesion] += 40
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    image = nibabel.Nifti1Image(values, affine)
    to = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(orientation)
    )
    image, mask = (
        part.as_reoriented(to) for part in (image, nibabel.Nifti1Image(lesion.astype(np.uint8), affine))
    )
    paths = [
        save_nifti(folder / f"{name}_{kind}.nii.gz", np.asarray(part.dataobj), part.affine)
        for kind, part in (("image", image), ("mask", mask))
    ]
    return Participant(name, "patient", *paths)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "ASL"])
def test_wide_fields_of_view_are_shown_and_do_not_stop(tmp_path, orientation):
    rows = [wide(tmp_path, "close", 2, orientation), wide(tmp_path, "wide", 20, orientation)]
    data, quality = DataConfig(), QualityConfig(max_spacing_mm=6)
    measured = {row.participant_id: measure(row, data) for row in rows}
    # The vertex is 2.5 voxels below the top: 34 slices end 82.5 mm above the centre, 52 slices 127.5 mm.
    assert measured["close"].head_mm[1] == pytest.approx(70, abs=5)
    assert measured["wide"].head_mm[1] == pytest.approx(115, abs=5)
    close, broad = verdicts(rows, measured, quality, data, slicing=PAPER)
    assert broad.word == "shown" and "field_of_view" in [flag.name for flag in broad.shown]
    assert "both ends of slices.z_range" in next(f.reason for f in broad.shown if f.name == "field_of_view")
    assert not close.stopping and not broad.stopping
    assert [v.word for v in verdicts(rows, measured, quality, data)] == ["ok", "ok"], (
        "registered, or by heights"
    )
    strict = QualityConfig(max_spacing_mm=6, accept={"field_of_view": ()})
    with pytest.raises(DataError, match=r"wide: field_of_view: .*preprocess\.registration\.transform: rigid"):
        verdicts(rows, measured, strict, data, slicing=PAPER)
