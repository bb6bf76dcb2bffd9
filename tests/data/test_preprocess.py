"""From a clinical volume to the grid, against nibabel's affines and plain numpy."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from synthetic import AFFINE, SPACING_MM, ball, head, save_nifti

from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import BrainConfig, PreprocessConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.preprocess import preprocess

CONFIG = PreprocessConfig(spacing_mm=SPACING_MM, grid=(32, 32, 32))
LESION = ball((12, 14, 16), 3.5)


def run(folder: Path, image, mask=None, config=CONFIG, name="sub-1"):
    """Preprocess files or arrays; returns (image, mask, affine, record)."""
    if isinstance(image, np.ndarray):
        image = save_nifti(folder / "in" / "image.nii.gz", image)
    if isinstance(mask, np.ndarray):
        mask = save_nifti(folder / "in" / "mask.nii.gz", mask)
    out = [folder / "out" / f"{name}{end}" for end in ("_FLAIR.nii.gz", "_mask.nii.gz", ".json")]
    preprocess(Participant(name, "fcd", image, mask), DataConfig(), config, *out)
    volume, lesion = nibabel.load(out[0]), nibabel.load(out[1])
    np.testing.assert_array_equal(volume.affine, lesion.affine)
    record = json.loads(out[2].read_text())
    return np.asarray(volume.dataobj), np.asarray(lesion.dataobj), volume.affine, record


def oriented(
    codes: str, spacing=(5.0, 6.0, 7.0), shape=(36, 34, 30), tilt_degrees: float = 0.0
) -> np.ndarray:
    """An affine of any orientation about the origin, tilted around the left-right axis."""
    diagonal = np.diag([*spacing, 1.0])
    diagonal[:3, 3] = -(np.array(shape) - 1) * spacing / 2
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(codes), nibabel.orientations.axcodes2ornt("RAS")
    )
    permuted = np.array(shape)[np.argsort(turn[:, 0].astype(int))]
    affine = diagonal @ nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        ),
        shape,
    )
    angle = np.deg2rad(tilt_degrees)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert nibabel.aff2axcodes(affine) == tuple(codes)
    return rotation @ affine, tuple(int(n) for n in permuted)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR", "SAL", "IPR"])
@pytest.mark.parametrize("tilt", [0.0, 12.0])
def test_every_orientation_ends_in_ras_with_places_kept(codes, tilt, tmp_path):
    affine, shape = oriented(codes, tilt_degrees=tilt)
    volume = head(0, shape)
    marked = tuple(n // 2 + d for n, d in zip(shape, (4, -3, 5), strict=True))
    lesion = ball(marked, 1.5, shape)
    image = save_nifti(tmp_path / "image.nii.gz", volume, affine)
    mask = save_nifti(tmp_path / "mask.nii.gz", lesion.astype(np.uint8), affine)
    moved, moved_lesion, moved_affine, record = run(tmp_path, image, mask, CONFIG)
    assert nibabel.aff2axcodes(moved_affine) == ("R", "A", "S")
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(moved_affine), SPACING_MM, rtol=1e-5)
    assert moved.shape == (32, 32, 32)
    there = nibabel.affines.apply_affine(moved_affine, np.argwhere(moved_lesion).mean(axis=0))
    np.testing.assert_allclose(there, nibabel.affines.apply_affine(affine, marked), atol=SPACING_MM)
    # The brain's own place, too: the image moves with the mask.
    brain = nibabel.affines.apply_affine(moved_affine, np.argwhere(moved > -1).mean(axis=0))
    source = nibabel.affines.apply_affine(affine, np.argwhere(volume > 0).mean(axis=0))
    np.testing.assert_allclose(brain, source, atol=SPACING_MM / 2)
    assert record["qc"]["source_orientation"] == codes


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
def test_lesion_volume_survives_resampling(codes, tmp_path):
    affine, shape = oriented(codes, spacing=(3.0, 3.0, 4.0), shape=(48, 48, 40))
    lesion = ball(tuple(n // 2 for n in shape), 7, shape)
    image = save_nifti(tmp_path / "image.nii.gz", head(0, shape), affine)
    mask = save_nifti(tmp_path / "mask.nii.gz", lesion.astype(np.uint8), affine)
    _, moved, _, record = run(tmp_path, image, mask, CONFIG)
    source_ml = lesion.sum() * 36 / 1000
    assert record["qc"]["lesion_ml_source"] == pytest.approx(source_ml, rel=1e-6)
    assert record["qc"]["lesion_ml_grid"] == pytest.approx(moved.sum() * SPACING_MM**3 / 1000, rel=1e-6)
    assert moved.sum() * SPACING_MM**3 / 1000 == pytest.approx(source_ml, rel=0.12)


def percentile_twin(values: np.ndarray, percent: float) -> float:
    """Linear interpolation between order statistics, written out."""
    ordered = np.sort(values.astype(np.float64).ravel())
    place = percent / 100 * (len(ordered) - 1)
    below = int(np.floor(place))
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (5.0, 90.0)])
@pytest.mark.parametrize("over", ["foreground", "volume"])
def test_intensities_follow_the_percentiles(over, percentiles, tmp_path):
    volume = head(3)
    config = CONFIG.model_copy(update={"percentiles_over": over, "percentiles": percentiles})
    # Same grid as the input, so that nothing but the scaling happens.
    scaled, _, affine, record = run(tmp_path, volume, LESION.astype(np.uint8), config)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-4)
    inside = volume > 0
    taken = volume[inside] if over == "foreground" else volume
    low, high = (percentile_twin(taken, p) for p in percentiles)
    wanted = np.clip(2 * (volume.astype(np.float64) - low) / (high - low) - 1, -1, 1)
    if over == "foreground":
        wanted[~inside] = -1
    np.testing.assert_allclose(scaled, wanted, atol=2e-5)
    assert scaled.dtype == np.float32
    scale = next(step for step in record["history"] if "scale_to_unit_range" in step)
    np.testing.assert_allclose(scale["scale_to_unit_range"], (low, high), rtol=1e-5, atol=1e-4)


def test_scaling_ignores_the_scanner_s_units(tmp_path):
    volume = head(3)
    first, *_ = run(tmp_path / "a", volume)
    second, *_ = run(tmp_path / "b", volume * 7 + 300)
    np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("grid", [(40, 40, 40), (32, 40, 24)])
def test_padding_is_never_lesion_and_never_tissue(grid, tmp_path):
    lesion = np.zeros((32, 32, 32), np.uint8)
    lesion[5:, 14:20, 12:18] = 1  # up to the very edge
    config = CONFIG.model_copy(update={"grid": grid})
    image, mask, affine, _ = run(tmp_path, head(1), lesion, config)
    places = nibabel.affines.apply_affine(np.linalg.inv(AFFINE) @ affine, np.argwhere(np.ones(grid))).round()
    outside = ((places < 0) | (places > 31)).any(axis=1).reshape(grid)
    assert outside.any()
    assert not mask[outside].any()
    assert (image[outside] == -1).all()
    assert mask.sum() == lesion.sum()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_mask_types_and_labels_do_not_matter(dtype, tmp_path):
    """A single value above 0 is lesion; masks come as every type that NIfTI has."""
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image((LESION * 3).astype(dtype), AFFINE, dtype=dtype), path)
    _, mask, _, _ = run(tmp_path, head(1), path)
    np.testing.assert_array_equal(mask, LESION)
    assert mask.dtype == np.uint8


def test_a_control_gets_an_empty_mask(tmp_path):
    _, mask, _, record = run(tmp_path, head(1))
    assert not mask.any()
    assert record["qc"]["lesion_ml_grid"] == 0


def test_a_fourth_axis_of_one_is_no_obstacle(tmp_path):
    image = save_nifti(tmp_path / "image.nii.gz", head(1)[..., None])
    one, *_ = run(tmp_path / "a", image)
    two, *_ = run(tmp_path / "b", head(1))
    np.testing.assert_array_equal(one, two)


def _shifted():
    affine = AFFINE.copy()
    affine[0, 3] += 2
    return affine


def _zoomed():
    affine = AFFINE.copy()
    affine[0, 0] += 0.05  # 1.6 mm at the far end
    return affine


def _with(volume, value):
    volume = volume.copy()
    volume[3, 3, 3] = value
    return volume


def _truncated(path: Path, array: np.ndarray) -> Path:
    save_nifti(path, array)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _no_nifti(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"hello" * 100))
    return path


BAD = {
    "4-D image": ("image", "3-D is wanted", lambda p: save_nifti(p, np.stack([head(1)] * 2, -1))),
    "NaN in the image": ("image", "NaN", lambda p: save_nifti(p, _with(head(1), np.nan))),
    "infinity in the image": ("image", "infinite", lambda p: save_nifti(p, _with(head(1), np.inf))),
    "constant image": ("image", "constant", lambda p: save_nifti(p, np.full((32, 32, 32), 7.0, np.float32))),
    "two values": ("image", "scale", lambda p: save_nifti(p, (head(1) > 0).astype(np.float32))),
    "truncated image": ("image", "ends too early", lambda p: _truncated(p, head(1))),
    "no NIfTI": ("image", "cannot be read", _no_nifti),
    "absent image": ("image", "not there", lambda p: p),
    "absent mask": ("mask", "not there", lambda p: p),
    "truncated mask": ("mask", "ends too early", lambda p: _truncated(p, head(1))),
    "empty mask": ("mask", "empty", lambda p: save_nifti(p, np.zeros((32, 32, 32), np.uint8))),
    "mask of another shape": ("mask", "shape", lambda p: save_nifti(p, LESION[:-1].astype(np.uint8))),
    "mask elsewhere": ("mask", "affine", lambda p: save_nifti(p, LESION.astype(np.uint8), _shifted())),
    "mask of other voxels": ("mask", "affine", lambda p: save_nifti(p, LESION.astype(np.uint8), _zoomed())),
    "NaN in the mask": ("mask", "NaN", lambda p: save_nifti(p, _with(LESION.astype(np.float32), np.nan))),
    "4-D mask": ("mask", "3-D", lambda p: save_nifti(p, np.stack([LESION.astype(np.uint8)] * 2, -1))),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_subject_file_and_cause_and_leaves_nothing(case, tmp_path):
    kind, cause, make = BAD[case]
    image = save_nifti(tmp_path / "good_image.nii.gz", head(1))
    mask = save_nifti(tmp_path / "good_mask.nii.gz", LESION.astype(np.uint8))
    bad = make(tmp_path / "bad.nii.gz")
    with pytest.raises(DataError) as caught:
        run(tmp_path, bad if kind == "image" else image, bad if kind == "mask" else mask, name="sub-77")
    message = str(caught.value)
    assert "sub-77" in message
    assert str(bad) in message
    assert cause in message
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True


def test_a_lesion_outside_of_the_grid_is_an_error(tmp_path):
    lesion = np.zeros((32, 32, 32), np.uint8)
    lesion[0:2, 0:2, 0:2] = 1
    config = CONFIG.model_copy(update={"grid": (16, 16, 16)})
    with pytest.raises(DataError, match=r"sub-1.*mask\.nii\.gz.*gone"):
        run(tmp_path, head(1), lesion, config)
    assert not (tmp_path / "out").exists()


def test_a_grid_that_misses_the_brain_is_an_error(tmp_path):
    volume = np.zeros((32, 32, 32), np.float32)
    volume[:4, :4, :4] = np.arange(64).reshape(4, 4, 4)
    config = CONFIG.model_copy(update={"grid": (8, 8, 8)})
    with pytest.raises(DataError, match=r"sub-1.*image\.nii\.gz.*background"):
        run(tmp_path, volume, None, config)


def files_of(participant: Participant, config: PreprocessConfig, folder: Path, **data) -> list[bytes]:
    out = [folder / name for name in ("image.nii.gz", "mask.nii.gz", "record.json")]
    preprocess(participant, DataConfig(**data), config, *out)
    return [path.read_bytes() for path in out]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """At another time, under another name, with another number of threads."""
    image = save_nifti(tmp_path / "image.nii.gz", head(1), oriented("LPS", tilt_degrees=7)[0])
    mask = save_nifti(tmp_path / "mask.nii.gz", LESION.astype(np.uint8), oriented("LPS", tilt_degrees=7)[0])
    participant = Participant("sub-1", "fcd", image, mask)
    first = files_of(participant, CONFIG, tmp_path / "a")
    time.sleep(1.1)  # the unit of gzip's time stamp
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        second = files_of(participant, CONFIG, tmp_path / "b")
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    assert first == second


def test_whatever_the_order_of_its_axes_a_volume_gives_the_same_slices(tmp_path):
    """Half way between two voxels, too, where rounding would go with the order of the axes."""
    rng, lesion = np.random.default_rng(0), ball((12, 14, 16), 5.5)
    volume = head(1) + rng.normal(0, 1, (32, 32, 32)).astype(np.float32)
    config = CONFIG.model_copy(update={"spacing_mm": 4.0, "grid": (48, 48, 48)})
    ras = run(tmp_path / "ras", volume, lesion.astype(np.uint8), config)
    for codes in ("LAS", "LPI", "PIR"):
        turn = nibabel.orientations.axcodes2ornt(codes)
        there = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
        affine = AFFINE @ nibabel.orientations.inv_ornt_aff(there, volume.shape)
        image, mask = (
            save_nifti(
                tmp_path / codes / f"{name}.nii.gz",
                nibabel.orientations.apply_orientation(array, there),
                affine,
            )
            for name, array in (("image", volume), ("mask", lesion.astype(np.uint8)))
        )
        assert nibabel.aff2axcodes(affine) == tuple(codes)
        other = run(tmp_path / codes / "out", image, mask, config)
        np.testing.assert_array_equal(other[0], ras[0])
        np.testing.assert_array_equal(other[1], ras[1])


def with_brain(folder: Path, brain: np.ndarray | None, lesion: np.ndarray = LESION) -> Participant:
    image = save_nifti(folder / "image.nii.gz", head(1) + 50)
    mask = save_nifti(folder / "mask.nii.gz", lesion.astype(np.uint8))
    path = None if brain is None else save_nifti(folder / "brain.nii.gz", brain.astype(np.uint8))
    return Participant("sub-1", "fcd", image, mask, brain_mask=path)


BY_SOURCE = CONFIG.model_copy(update={"brain": BrainConfig(method="source")})


def test_percentiles_are_of_the_brain_mask_and_outside_of_it_is_background(tmp_path):
    brain = ball((15, 15, 16), 9)
    files_of(with_brain(tmp_path, brain), BY_SOURCE, tmp_path / "out")
    scaled = np.asarray(nibabel.load(tmp_path / "out" / "image.nii.gz").dataobj)
    volume = head(1) + 50
    low, high = (percentile_twin(volume[brain], p) for p in BY_SOURCE.percentiles)
    np.testing.assert_allclose(
        scaled[brain], np.clip(2 * (volume[brain].astype(float) - low) / (high - low) - 1, -1, 1), atol=2e-5
    )
    assert (scaled[~brain] == -1).all()
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["qc"]["foreground_ml"] == pytest.approx(brain.sum() * SPACING_MM**3 / 1000)


def test_more_than_half_of_the_lesion_outside_of_the_brain_is_an_error(tmp_path):
    lesion = np.zeros((32, 32, 32), bool)
    lesion[10:20, 16, 16] = True
    for inside, refused in ((5, False), (4, True)):
        brain = np.zeros_like(lesion)
        brain[10 : 10 + inside] = True
        participant = with_brain(tmp_path / str(inside), brain, lesion)
        if not refused:
            files_of(participant, BY_SOURCE, tmp_path / "kept")
            continue
        with pytest.raises(DataError, match=r"sub-1: .*image\.nii\.gz: 6 of the lesion's 10 .*data\.exclude"):
            files_of(participant, BY_SOURCE, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("fault", ["no image", "NaN", "no brain mask", "lesion outside"])
def test_an_excluded_participant_that_cannot_be_used_gets_empty_files_and_a_record(fault, tmp_path):
    participant = with_brain(
        tmp_path,
        {"no brain mask": None, "lesion outside": ball((25, 25, 25), 3)}.get(fault, ball((15, 15, 16), 9)),
    )
    if fault == "no image":
        participant.image.unlink()
    elif fault == "NaN":
        save_nifti(participant.image, _with(head(1), np.nan))
    with pytest.raises(DataError):
        files_of(participant, BY_SOURCE, tmp_path / "included")
    image, mask, record = files_of(participant.without("a broken file"), BY_SOURCE, tmp_path / "excluded")
    assert image == mask == b""
    assert json.loads(record) == {"participant": "sub-1", "excluded": "a broken file"}


def test_an_excluded_participant_that_can_be_used_is_processed_as_usual(tmp_path):
    participant = with_brain(tmp_path, None)
    *volumes, record = files_of(participant, CONFIG, tmp_path / "included")
    *excluded_volumes, excluded = files_of(participant.without("moved"), CONFIG, tmp_path / "excluded")
    assert volumes == excluded_volumes
    assert json.loads(excluded) == {**json.loads(record), "excluded": "moved"}


def test_which_labels_are_lesion_and_where_the_mask_lies_is_the_source_s_to_say(tmp_path):
    """Labels 1 and 3 of a mask with twice as fine voxels; label 2 is none."""
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = AFFINE[:3, 3] - SPACING_MM / 4
    fine = np.zeros((64, 64, 64), np.uint8)
    fine[20:30, 20:30, 20:30] = 1
    fine[30:36, 20:30, 20:30] = 2
    fine[36:40, 20:30, 20:30] = 3
    participant = Participant(
        "sub-1",
        "fcd",
        save_nifti(tmp_path / "i.nii.gz", head(1)),
        save_nifti(tmp_path / "m.nii.gz", fine, affine),
    )
    with pytest.raises(DataError, match="mask_grid"):
        files_of(participant, CONFIG, tmp_path / "out", lesion_labels=(1, 3))
    files_of(participant, CONFIG, tmp_path / "out", lesion_labels=(1, 3), mask_grid="resample")
    found = np.asarray(nibabel.load(tmp_path / "out" / "mask.nii.gz").dataobj) > 0
    wanted = np.zeros((32, 32, 32), bool)
    wanted[10:15, 10:15, 10:15] = wanted[18:20, 10:15, 10:15] = True
    np.testing.assert_array_equal(found, wanted)


def test_no_torch_is_imported_unless_deepbet_is_asked_for(tmp_path):
    """It costs seconds and 0.6 GB a job; torchio, scikit-learn and pandas would bring theirs."""
    participant = with_brain(tmp_path, ball((15, 15, 16), 9))
    script = f"""
import sys
from pathlib import Path
from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.participants import Participant
from slimdiff.data.preprocess import preprocess
config = PreprocessConfig(spacing_mm=6, grid=(32, 32, 32), brain={{"method": "source"}})
config = config.model_copy(update={{"bias_field": config.bias_field.model_copy(update={{"n4": True}})}})
folder = Path({str(tmp_path)!r})
participant = Participant("sub-1", "fcd", *(folder / f"{{kind}}.nii.gz" for kind in ("image", "mask")),
                          brain_mask=folder / "brain.nii.gz")
preprocess(participant, DataConfig(), config, folder / "a.nii.gz", folder / "b.nii.gz", folder / "c.json")
print(sorted({{"torch", "torchio", "sklearn", "pandas", "deepbet", "nilearn"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert participant.image.is_file()
