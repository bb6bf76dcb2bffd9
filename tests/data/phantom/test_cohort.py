import csv
import gzip
import json
import os
import socket
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from slimdiff.data.phantom.anatomy import (
    CENTRE_MM,
    grid,
    lesion_site,
    make_subject,
    smooth_field,
    stream,
    templates,
)
from slimdiff.data.phantom.cohort import subject_ids, write_cohort

VOXEL_MM = 3.0
PATIENTS = 10


@pytest.fixture(scope="module")
def patients():
    return {
        f"sub-{number:03d}": make_subject(f"sub-{number:03d}", "fcd", 0, VOXEL_MM)
        for number in range(1, PATIENTS + 1)
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two patients and one control, written with the network shut."""

    def refuse(*args, **kwargs):
        raise AssertionError("the phantom must not touch the network")

    root = tmp_path_factory.mktemp("phantom") / "bids"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        patch.setattr(socket, "create_connection", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        templates.cache_clear()
        write_cohort(root, 2, 1, seed=0, voxel_mm=VOXEL_MM, progress=False)
    return root


def files(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def rows(root):
    with (root / "participants.tsv").open(newline="") as table:
        return list(csv.DictReader(table, delimiter="\t"))


def scaled(image):
    low, high = np.percentile(image[image > 0], [0.5, 99.5])
    return np.where(image > 0, np.clip(2 * (image - low) / (high - low) - 1, -1, 1), -1)


def contrast(image, mask):
    """Mean over axial slices of (mask mean − mean of the 5-px ring around it), image in [-1, 1]."""
    flair = scaled(image)
    differences = []
    for z in np.flatnonzero(mask.sum((0, 1)) >= 5):
        lesion = mask[:, :, z] > 0
        brain = ndimage.binary_erosion(flair[:, :, z] > -0.95)
        ring = ndimage.binary_dilation(lesion, iterations=5) & ~lesion & brain
        differences.append(flair[:, :, z][lesion & brain].mean() - flair[:, :, z][ring].mean())
    return np.mean(differences)


def world_centroid(weights, affine):
    return nibabel.affines.apply_affine(affine, ndimage.center_of_mass(weights))


def test_names_are_cheap_ordered_and_bounded():
    assert subject_ids(2, 1) == [("sub-001", "fcd"), ("sub-002", "fcd"), ("sub-003", "control")]
    assert subject_ids(3, 9)[:3] == subject_ids(3, 0)
    for patients, controls in [(0, 0), (-1, 3), (600, 400)]:
        with pytest.raises(ValueError, match="expected 1 to 999"):
            subject_ids(patients, controls)


def test_naming_subjects_imports_nothing_heavy():
    code = "import sys; from slimdiff.data.phantom.cohort import subject_ids; subject_ids(3, 2); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"nibabel", "nilearn", "scipy", "torch"} & set(loaded)


def test_a_subject_does_not_depend_on_cohort_or_order(cohort, tmp_path):
    write_cohort(tmp_path, 3, 0, seed=0, voxel_mm=VOXEL_MM, progress=False)
    small, large = files(cohort), files(tmp_path)
    for number in (2, 1):
        for suffix in ("FLAIR.nii.gz", "FLAIR_roi.nii.gz"):
            name = f"sub-{number:03d}/anat/sub-{number:03d}_{suffix}"
            assert small[name] == large[name]
    image, mask, _ = make_subject("sub-002", "fcd", 0, VOXEL_MM)
    written = nibabel.load(cohort / "sub-002/anat/sub-002_FLAIR.nii.gz")
    np.testing.assert_array_equal(image, np.asarray(written.dataobj))
    np.testing.assert_array_equal(
        mask, np.asarray(nibabel.load(cohort / "sub-002/anat/sub-002_FLAIR_roi.nii.gz").dataobj)
    )


def test_another_process_with_another_number_of_threads_makes_the_same_bytes():
    code = (
        "from hashlib import sha256; from slimdiff.data.phantom.cohort import subject_volumes as make\n"
        "print([sha256(make(f'sub-{n:03d}', 'fcd', 0, 2.0)[0].tobytes()).hexdigest() for n in (2, 7, 8)])"
    )
    answers = set()
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        answers.add(run.stdout)
    assert len(answers) == 1


def test_writing_again_repeats_every_byte_and_leaves_nothing_behind(cohort, tmp_path):
    write_cohort(tmp_path, 4, 1, seed=3, voxel_mm=6.0, progress=False)
    write_cohort(tmp_path, 2, 1, seed=0, voxel_mm=VOXEL_MM, progress=False)
    assert files(tmp_path) == files(cohort)
    volume = (cohort / "sub-001/anat/sub-001_FLAIR.nii.gz").read_bytes()
    assert volume[4:8] == bytes(4), "the gzip header carries a time"
    assert gzip.decompress(volume)


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "real patients", "BIDSVersion": "1.8.0"}')
    kept = tmp_path / "sub-001_FLAIR.nii.gz"
    kept.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="or a slimdiff phantom"):
        write_cohort(tmp_path, 1, 0, progress=False)
    assert kept.read_bytes() == b"precious"


def test_bids_files_say_what_the_dataset_is(cohort):
    description = json.loads((cohort / "dataset_description.json").read_text())
    assert description["DatasetType"] == "raw"
    assert description["BIDSVersion"]
    assert description["GeneratedBy"][0]["Name"] == "slimdiff phantom"
    assert "phantom" in description["Name"] and "no patients" in description["Name"]
    assert (cohort / ".bidsignore").read_text().split() == ["*_roi.nii.gz"]
    table = rows(cohort)
    assert [row["group"] for row in table] == ["fcd"] * 2 + ["control"]
    assert {row["acquisition"] for row in table} == {"phantom"}
    assert set(json.loads((cohort / "participants.json").read_text())) == set(table[0])
    for row in table:
        stem = f"{row['participant_id']}/anat/{row['participant_id']}_FLAIR"
        sidecar = json.loads((cohort / f"{stem}.json").read_text())
        assert sidecar["MRAcquisitionType"] == "3D" and sidecar["Manufacturer"] == "slimdiff phantom"
        assert (cohort / f"{stem}_roi.nii.gz").exists() == (row["group"] == "fcd")
        assert (row["lobe"] == "n/a") == (row["group"] == "control")


def test_volumes_are_ras_in_mm_with_both_transforms(cohort):
    for path in cohort.glob("sub-*/anat/*.nii.gz"):
        image = nibabel.load(path)
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_zooms() == (VOXEL_MM,) * 3
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(image.get_sform(coded=True)[0], image.affine)
        np.testing.assert_allclose(image.get_qform(coded=True)[0], image.affine)


def test_world_coordinates_are_those_of_the_atlas(patients):
    maps, origin = templates()
    expected = np.array(ndimage.center_of_mass(maps["brain"])) + origin
    for image, _, affine in patients.values():
        np.testing.assert_allclose(world_centroid(image > 0, affine), expected, atol=7)


def test_left_is_left_and_front_is_front(patients):
    sides = set()
    for participant_id, (image, mask, affine) in patients.items():
        site = lesion_site(participant_id, 0)
        sides.add(site.hemisphere)
        assert (world_centroid(mask, affine)[0] > 0) == (site.hemisphere == "right")
        # The cerebellum makes the low back of the head full where the low front is empty.
        index = np.linalg.inv(affine)
        back = ndimage.map_coordinates(
            image, nibabel.affines.apply_affine(index, [[25, -65, -38]]).T, order=0
        )
        front = ndimage.map_coordinates(
            image, nibabel.affines.apply_affine(index, [[25, 60, -38]]).T, order=0
        )
        assert back[0] > 0 and front[0] == 0
    assert sides == {"left", "right"}


def test_lesions_lie_in_the_brain_in_one_piece_and_cover_several_slices(patients):
    for image, mask, _ in patients.values():
        assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
        assert np.all(image[mask > 0] > 0)
        assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1
        assert 4 <= np.count_nonzero(mask.sum((0, 1)) >= 12) <= 12


def test_lesions_are_brighter_than_their_ring(patients):
    differences = [contrast(image, mask) for image, mask, _ in patients.values()]
    assert np.mean(np.array(differences) > 0.15) >= 0.9
    assert 0.25 < np.mean(differences) < 0.5


def test_without_its_lesion_a_patient_is_the_same_brain(patients):
    """The lesion is the only difference between a participant as patient and as control."""
    image, mask, _ = patients["sub-001"]
    control, empty, _ = make_subject("sub-001", "control", 0, VOXEL_MM)
    assert not empty.any()
    far = ndimage.distance_transform_edt(mask == 0) * VOXEL_MM > 25
    assert np.abs(image - control)[far].max() <= 1
    assert abs(contrast(control, mask)) < contrast(image, mask) / 2 + 0.1


def test_tissues_are_ordered_as_in_flair(patients):
    """Ventricle < white matter < grey matter, read at well-known places of the atlas."""
    for image, _, affine in patients.values():
        flair = ndimage.gaussian_filter(image, 0.5)
        index = np.linalg.inv(affine)

        def near(points, flair=flair, index=index):
            return ndimage.map_coordinates(flair, nibabel.affines.apply_affine(index, points).T, order=1)

        white = np.median(near([[x, y, 28] for x in (-26, 26) for y in (-30, -20, -10, 0, 10)]))
        ventricle = near([[x, y, 12] for x in range(-20, 21, 2) for y in range(-40, 20, 4)]).min()
        assert ventricle < 0.6 * white
        assert np.median(image[image > 1.1 * white]) > white
        assert np.mean(image[image > 0] > 1.1 * white) > 0.25


def test_subjects_differ_and_yet_are_the_same_organ(patients):
    images = [scaled(image) for image, _, _ in patients.values()]
    middle = [image[:, :, image.shape[2] // 2 + 5].ravel() for image in images]
    similarity = np.corrcoef(middle)[np.triu_indices(len(middle), 1)]
    assert similarity.max() < 0.97
    assert similarity.min() > 0.7
    mirrored = [np.corrcoef(image.ravel(), image[::-1].ravel())[0, 1] for image in images]
    assert max(mirrored) < 0.97


def test_seeds_and_names_decide_everything():
    same, _, _ = make_subject("sub-001", "control", 0, 6.0)
    np.testing.assert_array_equal(same, make_subject("sub-001", "control", 0, 6.0)[0])
    assert not np.array_equal(same, make_subject("sub-001", "control", 1, 6.0)[0])
    assert not np.array_equal(same, make_subject("sub-002", "control", 0, 6.0)[0])
    assert stream(0, "sub-001", "warp").random() != stream(0, "sub-001", "lesion").random()


def test_anatomy_does_not_depend_on_the_voxel_size():
    volumes = []
    for voxel_mm in (3.0, 4.0):
        image, mask, _ = make_subject("sub-003", "fcd", 0, voxel_mm)
        volumes.append([np.count_nonzero(image) * voxel_mm**3, mask.sum() * voxel_mm**3])
    np.testing.assert_allclose(volumes[0][0], volumes[1][0], rtol=0.01)
    np.testing.assert_allclose(volumes[0][1], volumes[1][1], rtol=0.25)


def test_smooth_field_has_unit_variance_and_samples_one_field():
    fine, coarse = grid(2.0)[0], grid(6.0)[0]
    fields = np.stack([smooth_field(coarse, 30.0, np.random.default_rng(seed)) for seed in range(300)])
    np.testing.assert_allclose(fields.var(axis=0).mean(), 1, atol=0.05)
    line = tuple(np.array([centre]) for centre in CENTRE_MM)
    middle = tuple(np.argmin(np.abs(axis - centre)) for axis, centre in zip(fine, CENTRE_MM, strict=True))
    shifted = tuple(
        axis - axis[index] + centre for axis, index, centre in zip(fine, middle, CENTRE_MM, strict=True)
    )
    whole = smooth_field(shifted, 30.0, np.random.default_rng(0))[middle]
    np.testing.assert_allclose(whole, smooth_field(line, 30.0, np.random.default_rng(0)).item(), atol=1e-5)


def test_impossible_requests_are_named_before_anything_is_touched(cohort):
    with pytest.raises(ValueError, match="sub-001: .*found 'patient'"):
        make_subject("sub-001", "patient", 0, 2.0)
    before = files(cohort)
    for voxel_mm in (0.5, 9.0):
        with pytest.raises(ValueError, match="voxel_mm"):
            write_cohort(cohort, 1, 0, voxel_mm=voxel_mm, progress=False)
    assert files(cohort) == before
