"""Real FLAIR through the stage (Lesjak et al. 2017): skull-stripped near MNI space, and thick slices with a skull."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import BiasFieldConfig, BrainConfig, PreprocessConfig, RegistrationConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.config.slices import SlicesConfig
from slimdiff.data.participants import Participant
from slimdiff.data.quality.gate import run_quality_control
from slimdiff.data.slices import build_store
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes import bias_field
from slimdiff.data.volumes.bias_field import correct
from slimdiff.data.volumes.brain import brain_mask
from slimdiff.data.volumes.foreground import foreground
from slimdiff.data.volumes.grid import back_to_source, canonical, to_grid_mm, to_source_mm
from slimdiff.data.volumes.preprocess import preprocess
from slimdiff.data.volumes.registration import register, template
from slimdiff.files import read_table

apply = nibabel.affines.apply_affine


@dataclass(frozen=True)
class Made:
    image: np.ndarray
    lesion: np.ndarray
    affine: np.ndarray
    record: dict
    folder: Path


def made(folder: Path, participant: Participant, config: PreprocessConfig) -> Made:
    name = participant.participant_id
    out = [folder / f"{name}{end}" for end in ("_image.nii.gz", "_mask.nii.gz", ".json")]
    preprocess(participant, DataConfig(), config, *out)
    image, lesion = nibabel.load(out[0]), nibabel.load(out[1])
    record = json.loads(out[2].read_text())
    return Made(np.asarray(image.dataobj), np.asarray(lesion.dataobj) > 0, image.affine, record, folder)


@pytest.fixture(scope="module")
def open_ms(shared_data) -> Path:
    folder = shared_data / "open_ms"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def patient(folder: Path, number: str) -> Participant:
    image, mask = (folder / f"patient{number}_{kind}_MNI.nii.gz" for kind in ("FLAIR", "lesion"))
    return Participant(f"patient{number}", "ms", image, mask)


@pytest.mark.parametrize("number", ["07", "19"])
def test_a_stripped_volume_becomes_slices_with_its_lesion(number, open_ms, tmp_path):
    """LAS, 1 mm, small negatives. 1.3 ml in patient 07, 49.8 ml in 19."""
    participant = patient(open_ms, number)
    done = made(tmp_path, participant, PreprocessConfig())
    assert done.image.shape == (160, 160, 160)
    assert nibabel.aff2axcodes(done.affine) == ("R", "A", "S")
    assert done.image.min() == -1 and done.image.max() == 1
    source = nibabel.load(participant.mask)
    labels = np.asarray(source.dataobj) > 0
    source_ml = labels.sum() * np.prod(source.header.get_zooms()) / 1000
    assert done.lesion.sum() * 1.25**3 / 1000 == pytest.approx(source_ml, rel=0.03)
    # Twin: every voxel of the grid looks up the source voxel at its place in the world.
    places = apply(
        np.linalg.inv(source.affine) @ done.affine, np.argwhere(np.ones(done.lesion.shape)).astype(float)
    )
    nearest = places.round().astype(int)
    inside = ((nearest >= 0) & (nearest < labels.shape)).all(axis=1)
    wanted = np.zeros(done.lesion.size, bool)
    wanted[inside] = labels[tuple(nearest[inside].T)]
    clear = (np.abs(places - np.floor(places) - 0.5) > 1e-3).all(axis=1)  # half way, either voxel is nearest
    np.testing.assert_array_equal(done.lesion.ravel()[clear], wanted[clear])

    image = np.asarray(nibabel.load(participant.image).dataobj)
    assert image.min() < 0
    assert 0.85 < done.record["qc"]["foreground_ml"] / ((image != 0).sum() / 1000) < 1.05
    assert done.record["qc"]["lesion_outside_foreground_share"] < 0.05
    # Lesions are bright on FLAIR.
    assert done.image[done.lesion].mean() > done.image[done.image > -1].mean() + 0.2

    def volume(name, kind):
        return tmp_path / f"{name}_{kind}.nii.gz"

    config = SlicesConfig(z_range=(34, 115), n_bins=10, min_lesion_mm2=0)
    build_store([participant], volume, config, tmp_path / "store")
    store = SliceStore.open(tmp_path / "store")
    rows = read_table(tmp_path / "store" / "slices.tsv")
    kept = [int(row["z"]) for row in rows]
    wanted_px = done.lesion.sum(axis=(0, 1))
    assert [int(row["lesion_px"]) for row in rows] == wanted_px[kept].tolist()
    assert [int(np.asarray(mask).sum()) for mask in store.masks] == wanted_px[kept].tolist()
    assert wanted_px[kept].sum() > 0.95 * done.lesion.sum()


@pytest.mark.parametrize("number", ["07", "19"])
def test_deepbet_agrees_with_the_brain_that_the_dataset_stripped(number, open_ms):
    pytest.importorskip("deepbet", reason="deepbet is not installed")
    participant = patient(open_ms, number)
    image = nibabel.load(participant.image)
    values, affine = canonical(np.asarray(image.dataobj, np.float32), image.affine)
    found = brain_mask(values, affine, None, participant, BrainConfig(method="deepbet"))
    given = values > 0
    assert 2 * (found & given).sum() / (found.sum() + given.sum()) > 0.94
    lesion, _ = canonical(np.asarray(nibabel.load(participant.mask).dataobj) > 0, image.affine)
    assert (lesion & found).sum() > 0.98 * lesion.sum()


@pytest.mark.parametrize("kind", ["rigid", "affine"])
@pytest.mark.parametrize("number", ["07", "19"])
def test_a_volume_that_was_moved_is_put_where_it_was_put_before(number, kind, open_ms):
    image = nibabel.load(patient(open_ms, number).image)
    values, affine = canonical(np.asarray(image.dataobj, np.float32), image.affine)
    brain, config = values > 5, RegistrationConfig(transform=kind)
    moved = nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.0, 0.0, np.radians(8)), (12.0, -5.0, 8.0)
    )
    if kind == "affine":
        moved = moved @ np.diag([1.06, 0.95, 1.03, 1])
    before = register(values, affine, brain, config).to_template_mm
    after = register(values, moved @ affine, brain, config).to_template_mm
    corners = np.argwhere(brain)
    corners = np.array([corners.min(axis=0), corners.max(axis=0)])
    corners = apply(
        affine, [[corners[i][0], corners[j][1], corners[k][2]] for i, j, k in np.ndindex(2, 2, 2)]
    )
    assert np.linalg.norm(apply(after @ moved, corners) - apply(before, corners), axis=1).max() < 2
    assert np.linalg.norm(apply(moved, corners) - corners, axis=1).max() > 12


@pytest.fixture(scope="module")
def thick(open_ms, tmp_path_factory) -> Made:
    """0.72 x 0.72 x 4 mm, LPS, oblique, uint16, with its skull: through all there is."""
    pytest.importorskip("deepbet", reason="deepbet is not installed")
    image = open_ms / "long_patient01_study1_FLAIR_raw.nii.gz"
    config = PreprocessConfig(
        bias_field=BiasFieldConfig(n4=True),
        brain=BrainConfig(method="deepbet"),
        registration=RegistrationConfig(transform="rigid"),
    )
    with pytest.MonkeyPatch.context() as patch:
        # Fewer fitting levels, for time and so that the picture stays comparable with the source.
        patch.setattr(bias_field, "correct", partial(bias_field.correct, iterations=(30, 20)))
        return made(tmp_path_factory.mktemp("thick"), Participant("raw01", "ms", image, None), config)


def test_thick_slices_with_a_skull_become_a_brain_on_the_template_s_grid(thick):
    steps = [step["step"] for step in thick.record["history"]]
    assert steps == ["reorient", "extract_brain", "correct_bias_field", "register", "resample", "scale"]
    assert 900 < thick.record["qc"]["foreground_ml"] < 1800
    values, affine = template()
    places = apply(np.linalg.inv(affine) @ thick.affine, np.argwhere(thick.image > -1)).round().astype(int)
    inside = (places >= 0).all(axis=1) & (places < values.shape).all(axis=1)
    in_template = values[tuple(places[inside].T)] > 0
    # Brains are smaller than the template's 1.9 litres: rigidly, theirs lies in it.
    assert in_template.sum() > 0.97 * len(places)
    # Left and right, front and back are about the template's middle.
    middle = apply(thick.affine, np.argwhere(thick.image > -1).mean(axis=0))
    brain = apply(affine, np.argwhere(values > 0).mean(axis=0))
    assert np.abs(middle - brain).max() < 8


def test_quality_control_flags_its_thick_slices_and_nothing_else(open_ms, tmp_path):
    image = open_ms / "long_patient01_study1_FLAIR_raw.nii.gz"
    mask = open_ms / "patient07_lesion_MNI.nii.gz"
    other = open_ms / "patient07_FLAIR_MNI.nii.gz"
    table = tmp_path / "volumes.tsv"
    table.write_text(f"participant_id\timage\tmask\nraw01\t{image}\tn/a\n07\t{other}\t{mask}\n")
    data, quality = DataConfig(source="table", table=str(table)), QualityConfig(policy="exclude")
    _, verdicts = run_quality_control(data, quality, tmp_path / "phantom", tmp_path / "state")
    raw, stripped = verdicts
    assert [flag.name for flag in raw.stopping] == ["thick_slices"] and raw.shown == ()
    assert "4 mm" in raw.stopping[0].reason
    assert stripped.word == "ok"


def test_its_record_leads_back_to_the_scanner(thick, open_ms):
    record = thick.record
    source = nibabel.load(open_ms / "long_patient01_study1_FLAIR_raw.nii.gz")
    points = np.random.default_rng(0).uniform(-90, 90, (50, 3))
    assert np.abs(apply(to_source_mm(record), apply(to_grid_mm(record), points)) - points).max() < 0.01
    back = back_to_source(thick.image, record, 1)
    np.testing.assert_allclose(back.affine, source.affine, atol=1e-4)
    assert back.shape == source.shape
    brain = np.asarray(back.dataobj) > -0.9
    original = np.asarray(source.dataobj, np.float32)
    # The picture itself, not only its place: half a voxel off would blur sulci and ventricles away.
    assert np.corrcoef(np.asarray(back.dataobj)[brain], original[brain])[0, 1] > 0.9
    # Outside of the head, where the scanner saw nothing, there is no brain.
    air = ndimage.binary_erosion(original == 0, np.ones((3, 3, 1)), iterations=4)  # fluid is 0, too
    assert air.mean() > 0.3
    assert not (brain & air).any()


@pytest.mark.slow
def test_n4_finds_a_known_field_on_the_extracted_brain_of_a_raw_volume(open_ms):
    """The field that is added, beside the scanner's own: what N4 finds with it less what it finds without."""
    pytest.importorskip("deepbet", reason="deepbet is not installed")
    path = open_ms / "long_patient01_study1_FLAIR_raw.nii.gz"
    image = nibabel.load(path)
    values, affine = canonical(np.asarray(image.dataobj, np.float32), image.affine)
    raw = Participant("raw01", "ms", path, None)
    brain = brain_mask(values, affine, None, raw, BrainConfig(method="deepbet"))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij")
    added = 0.3 * np.sin(1.4 * x) + 0.2 * y * z - 0.2 * z**2 + 0.2 * y
    for start, inside in ((np.where(brain, values, values.min()), brain), (values, foreground(values))):
        zero = np.percentile(start, 0.1)
        shaded = ((start - zero) * np.exp(added) + zero).astype(np.float32)
        found = []
        for volume in (start, shaded):
            corrected, used = correct(volume, inside, BiasFieldConfig(n4=True))
            signal = brain & (start - zero > 1)
            found.append(np.log((volume - used["zero"])[signal] / (corrected - used["zero"])[signal]))
        assert np.corrcoef(found[1] - found[0], added[signal])[0, 1] > 0.999
