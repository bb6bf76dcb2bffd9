"""Masks saved by scripts and viewers: headers without a position, mirrored ones, and signed or scaled values."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import AFFINE, ball, head, save_nifti

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import Participant
from slimdiff.data.quality.exclusion import judge
from slimdiff.data.quality.measure import measure
from slimdiff.data.volumes.read import VolumeError, load_pair

LESION = ball((12, 14, 16), 3.5)
IMAGE = head(1) + 40 * LESION
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE
TILTED = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.05, 0.1, 0.15)) @ AFFINE


def pair(
    folder: Path, mask: nibabel.Nifti1Image | None, image: nibabel.Nifti1Image | None = None, name="sub-1"
) -> Participant:
    """A participant with these files; by default with the head."""
    image = image or nibabel.Nifti1Image(IMAGE, AFFINE)
    paths = [folder / f"{name}_{kind}.nii.gz" for kind in ("FLAIR", "roi")]
    folder.mkdir(exist_ok=True)
    nibabel.save(image, paths[0])
    if mask:
        nibabel.save(mask, paths[1])
    return Participant(name, "patient", paths[0], paths[1] if mask else None, group_by_mask=True)


def nifti(values: np.ndarray, affine: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(values, affine)


def refused(row: Participant, **options) -> VolumeError:
    with pytest.raises(VolumeError) as caught:
        load_pair(row, **options)
    return caught.value


@pytest.mark.parametrize("diagonal", [(1, 1, 1), (-1, -1, 1), (6, 6, 6), (-6, -6, 6)])
def test_a_header_with_the_origin_of_a_script_gives_no_position(diagonal, tmp_path):
    """`numpy.eye(4)` and SimpleITK without CopyInformation: to resample would leave a voxel of the lesion."""
    row = pair(tmp_path, nifti(LESION.astype(np.uint8), np.diag([*diagonal, 1.0])))
    for grid in ("same", "resample"):
        fault = refused(row, mask_grid=grid)
        assert fault.flag == "other_grid" and "its origin is 0" in str(fault)
        assert "data.mask_grid: voxels" in str(fault) and "data.mask_grid: resample" not in str(fault)
    np.testing.assert_array_equal(load_pair(row, mask_grid="voxels").lesion, LESION)


def test_the_image_may_be_the_one_without_an_origin(tmp_path):
    row = pair(tmp_path, nifti(LESION.astype(np.uint8)), nifti(IMAGE, np.diag([-1.0, -1, 1, 1])))
    assert "the image's header gives no position" in str(refused(row, mask_grid="resample"))
    np.testing.assert_array_equal(load_pair(row, mask_grid="voxels").lesion, LESION)


def test_two_scripts_of_different_habits_agree_on_voxels(tmp_path):
    row = pair(tmp_path, nifti(LESION.astype(np.uint8), np.eye(4)), nifti(IMAGE, np.diag([-1.0, -1, 1, 1])))
    np.testing.assert_array_equal(load_pair(row, mask_grid="voxels").lesion, LESION)


def test_grids_that_share_the_origin_0_are_resampled(tmp_path):
    """A mask of half the resolution, from the same corner."""
    mask = nifti(LESION[::2, ::2, ::2].astype(np.uint8), np.diag([12.0, 12, 12, 1]))
    row = pair(tmp_path, mask, nifti(IMAGE, np.diag([6.0, 6, 6, 1])))
    found = load_pair(row, mask_grid="resample")
    assert found.moved == ("mask",)
    np.testing.assert_array_equal(found.lesion[::2, ::2, ::2], LESION[::2, ::2, ::2])


def test_a_mirrored_header_may_be_wrong_and_the_advice_says_how_to_see_it(tmp_path):
    """A mask in another order of its axes is right, and one whose header alone was mirrored is wrong."""
    right = pair(tmp_path / "a", nifti(LESION[::-1].astype(np.uint8), AFFINE @ mirror(32)))
    wrong = pair(tmp_path / "b", nifti(LESION.astype(np.uint8), MIRRORED))
    for row in (right, wrong):
        assert "compare both in a viewer" in str(refused(row))
    np.testing.assert_array_equal(load_pair(right, mask_grid="resample").lesion, LESION)
    data = DataConfig(source="bids", root="x", mask_grid="resample")
    flags = {}
    for key, row in (("right", right), ("wrong", wrong)):
        (verdict,) = judge(
            [row], {row.participant_id: measure(row, data)}, QualityConfig(max_spacing_mm=7), data
        )
        flags[key] = {flag.name: flag.reason for flag in verdict.shown}
    assert "flip_suspected" not in flags["right"]
    assert "resampled by its header, which is wrong if" in flags["wrong"]["flip_suspected"]


def mirror(count: int) -> np.ndarray:
    """Affine from voxels counted from the right to those counted from the left."""
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = count - 1
    return affine


def reordered(image: nibabel.Nifti1Image, axes: str) -> nibabel.Nifti1Image:
    wanted = nibabel.orientations.axcodes2ornt(axes)
    return image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted)
    )


def scaled(values: np.ndarray) -> nibabel.Nifti1Image:
    """255 as 1, by the slope of the header."""
    image = nibabel.Nifti1Image((values * 255).astype(np.int16), AFFINE)
    image.header.set_slope_inter(1 / 255, 0)
    return image


STORED = {
    "oblique": (nifti(IMAGE, TILTED), nifti(LESION.astype(np.uint8), TILTED), "same"),
    "oblique and sagittal": (
        reordered(nifti(IMAGE, TILTED), "PSR"),
        reordered(nifti(LESION.astype(np.uint8), TILTED), "PSR"),
        "same",
    ),
    "only the image is sagittal": (
        reordered(nifti(IMAGE), "PSR"),
        nifti(LESION.astype(np.uint8)),
        "resample",
    ),
    "float64": (nifti(IMAGE), nifti(LESION * 2.0), "same"),
    "a slope": (nifti(IMAGE), scaled(LESION), "same"),
    "four and five axes": (
        nifti(IMAGE[..., None]),
        nifti(LESION.astype(np.uint8)[..., None, None]),
        "same",
    ),
    "one slice more": (
        nifti(IMAGE),
        nifti(np.pad(LESION.astype(np.uint8), ((0, 0), (0, 0), (0, 1)))),
        "resample",
    ),
}


@pytest.mark.parametrize("case", STORED)
def test_the_lesion_is_on_its_tissue_however_it_is_stored(case, tmp_path):
    image, mask, grid = STORED[case]
    found = load_pair(pair(tmp_path, mask, image), mask_grid=grid)
    assert found.lesion.sum() == LESION.sum()
    assert found.image.values[found.lesion].mean() == pytest.approx(IMAGE[LESION].mean(), abs=1e-3)


# Values ------------------------------------------------------------------------------------------------------------


def test_255_in_a_signed_type_never_makes_a_control(tmp_path):
    """255 as int8 is -1: no voxel is above 0, and `data.empty_mask: control` may be meant for the others."""
    signed = (LESION * np.uint8(255)).view(np.int8)
    rows = [
        pair(tmp_path / str(n), nifti(values), nifti(head(n)), f"sub-{n}")
        for n, values in enumerate((LESION.astype(np.uint8), signed, np.zeros(LESION.shape, np.uint8)))
    ]
    data = DataConfig(source="nnunet", root="x", empty_mask="control")
    measured = {row.participant_id: measure(row, data) for row in rows}
    found = judge(rows, measured, QualityConfig(max_spacing_mm=7), data)
    assert [flag.name for flag in found[1].stopping] == ["other_labels"]
    assert "below 0 (-1)" in found[1].stopping[0].reason and "empty_mask" not in found[1].stopping[0].reason
    assert [verdict.participant.is_patient for verdict in found] == [True, True, False]


def test_values_below_0_beside_the_label_need_its_name(tmp_path):
    values = LESION.astype(np.int8)
    values[20:22, 20:22, 20:22] = -1
    row = pair(tmp_path, nifti(values))
    fault = refused(row)
    assert fault.flag == "mask_not_binary" and "-1, 1" in str(fault) and "data.lesion_labels" in str(fault)
    np.testing.assert_array_equal(load_pair(row, labels=(1,)).lesion, LESION)


def test_soft_edges_in_whole_numbers_need_a_threshold_and_the_message_says_so(tmp_path):
    """Anti-aliased masks of 8 bits: a list of labels would need all their values."""
    grid = np.linalg.norm(np.indices(LESION.shape).T - [12, 14, 16], axis=-1).T
    soft = np.clip(255 * (4 - grid), 0, 255).astype(np.uint8)
    row = pair(tmp_path, nifti(soft))
    assert "data.mask_threshold: 0.5" in str(refused(row))
    np.testing.assert_array_equal(load_pair(row, threshold=0.5).lesion, soft > 127.5)
    few = pair(tmp_path / "few", nifti(LESION * np.uint8(1) + ball((20, 20, 20), 2).astype(np.uint8) * 2))
    assert "mask_threshold" not in str(refused(few))


@pytest.mark.parametrize("voxels, flagged", [(1, True), (2, True), (3, False)])
def test_a_click_is_no_lesion(voxels, flagged, tmp_path):
    values = np.zeros(LESION.shape, np.uint8)
    values[12 : 12 + voxels, 14, 16] = 1
    row = pair(tmp_path, nifti(values))
    data = DataConfig(source="bids", root="x")
    measured = {row.participant_id: measure(row, data)}
    (verdict,) = judge([row], measured, QualityConfig(max_spacing_mm=7), data)
    assert ("implausible_lesion" in [flag.name for flag in verdict.stopping]) == flagged
    accepted = QualityConfig(max_spacing_mm=7, accept={"implausible_lesion": ("sub-1",)})
    assert not judge([row], measured, accepted, data)[0].stopping


# Empty masks of patients -------------------------------------------------------------------------------------------


def empty_masked(tmp_path: Path, *groups: tuple[str, bool], **keys) -> list:
    """Verdicts of one patient of the group fcd, and of participants with an empty mask: group, and if it follows from
    the mask alone."""
    rows = [replace(pair(tmp_path, nifti(LESION.astype(np.uint8))), group="fcd", group_by_mask=False)]
    for number, (group, by_mask) in enumerate(groups, start=2):
        empty = save_nifti(tmp_path / f"empty{number}.nii.gz", np.zeros(LESION.shape, np.uint8))
        image = save_nifti(tmp_path / f"image{number}.nii.gz", head(number))
        rows.append(Participant(f"sub-{number}", group, image, empty, group_by_mask=by_mask))
    data = DataConfig(**({"source": "bids", "root": "x", "empty_mask": "control"} | keys))
    return judge(
        rows, {row.participant_id: measure(row, data) for row in rows}, QualityConfig(max_spacing_mm=7), data
    )


def test_an_empty_mask_in_a_group_of_patients_makes_no_control(tmp_path):
    """`data.empty_mask: control` is set for the healthy ones: a patient without a visible lesion is none of them."""
    _, fcd, patient, healthy, unstated = empty_masked(
        tmp_path, ("FCD", False), ("patient", False), ("hc", False), ("patient", True)
    )
    for verdict in (fcd, patient):
        assert [flag.name for flag in verdict.stopping] == ["empty_mask"]
        assert "data.patients_without_mask: exclude" in verdict.stopping[0].reason
    for verdict, group in ((healthy, "hc"), (unstated, "control")):
        assert not verdict.stopping and not verdict.participant.is_patient
        assert verdict.participant.group == group


@pytest.mark.parametrize("setting", ["exclude", "control"])
def test_the_study_settles_patients_with_an_empty_mask(setting, tmp_path):
    _, fcd = empty_masked(tmp_path, ("fcd", False), patients_without_mask=setting)
    assert not fcd.stopping
    assert fcd.participant.included == (setting == "control")
    if setting == "exclude":
        assert "data.patients_without_mask" in fcd.participant.excluded
        assert fcd.word == "excluded"
    else:
        assert fcd.participant.group == "fcd" and not fcd.participant.is_patient
