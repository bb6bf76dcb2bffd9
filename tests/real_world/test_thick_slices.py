"""Real stacks of thick slices through the stages, with their own slices: data.table, native spacing, z-bins."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import save_nifti, study_mapping
from helpers.thick_slices import THICK_MM, stack

from slimdiff import cli, datasets
from slimdiff.config import Study, load_study
from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.preprocess import volume_to_source
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.files import read_table
from slimdiff.model.checkpoint import read_card

PATIENTS = ("lgg-001", "lgg-002", "lgg-005", "lgg-009", "lgg-010", "lgg-012")
"""From four sites, 20 to 73 slices."""


def run(folder: Path, rows: list[tuple], stages: tuple[str, ...], **sections) -> Study:
    """Write a table and a study of these (participant_id, image, mask), and run its stages."""
    lines = ["participant_id\timage\tmask\tgroup", *("\t".join([*map(str, row), "patient"]) for row in rows)]
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")
    values = {
        "study": "thick",
        "results_dir": str(folder / "results"),
        "data": {"source": "table", "table": str(folder / "table.tsv")},
        "quality": {"accept": {"implausible_lesion": "all", "orientation_unknown": "all"}},
        "folds": {"k": 2},
        **sections,
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(values))
    for stage in stages:
        assert cli.run_stage(stage, ["--config", str(path)]) == 0, stage
    return load_study(path)


@pytest.fixture(scope="module")
def glioma(shared_data, tmp_path_factory) -> Study:
    """Six patients of lgg/native, pixels of 3 mm, their own slices, six relative z-bins."""
    source = shared_data / "lgg" / "native"
    if not source.is_dir():
        pytest.skip(f"no patients with glioma at {source}")
    rows = [(name, source / f"{name}_FLAIR.nii.gz", source / f"{name}_mask.nii.gz") for name in PATIENTS]
    return run(
        tmp_path_factory.mktemp("lgg"),
        rows,
        ("participants", "preprocess", "kfold", "cache", "priors", "quality"),
        preprocess={"spacing_mm": [3.0, 3.0, "native"], "grid": [64, 64, 88]},
        slices={"n_bins": 6, "min_lesion_mm2": 72},
    )


def test_glioma_keeps_its_slices_and_their_lesions(glioma, shared_data):
    quality = {row["participant_id"]: row for row in read_table(glioma.paths.quality, ("flags",))}
    for name in PATIENTS:
        source = nibabel.load(shared_data / "lgg" / "native" / f"{name}_mask.nii.gz")
        volume = nibabel.load(glioma.paths.volume(name, "mask"))
        assert volume.shape == (64, 64, source.shape[2])
        assert volume.header.get_zooms()[2] == pytest.approx(source.header.get_zooms()[2], rel=1e-3)
        assert "thick_slices" not in quality[name]["flags"], "up to 8 mm, but not resampled"
        lesion = np.asarray(nibabel.as_closest_canonical(source).dataobj) > 0
        found = np.asarray(volume.dataobj) > 0
        # Within a slice area is kept within 10 %, or three pixels of 3 mm.
        area = lesion.sum(axis=(0, 1)) * 1.5**2
        np.testing.assert_allclose(found.sum(axis=(0, 1)) * 9.0, area, rtol=0.1, atol=27)
        record = json.loads(glioma.paths.volume_json(name).read_text())
        assert record["qc"]["lesion_ml_grid"] == pytest.approx(record["qc"]["lesion_ml_source"], rel=0.03)


def test_glioma_slices_are_binned_by_the_height_of_each_brain(glioma):
    store = SliceStore.open(glioma.paths.store)
    assert store.height == "relative" and store.size == (64, 64) and store.spacing_mm == 3.0
    for name in PATIENTS:
        rows = store.rows_of([name])
        image = np.asarray(nibabel.load(glioma.paths.volume(name, "image")).dataobj, np.float32)
        brain = np.flatnonzero((image > -0.9).mean(axis=(0, 1)) >= glioma.slices.min_tissue)
        height = (store.z[rows] - brain[0]) / (brain[-1] - brain[0])
        assert height.min() == 0 and height.max() == 1
        assert store.z_bin[rows].tolist() == np.minimum(np.floor(height * 6 + 1e-9), 5).tolist()
        assert set(store.z_bin[rows].tolist()) == set(range(6)), "every brain reaches all z-bins"
        for row in rows[:: len(rows) // 3]:
            np.testing.assert_array_equal(
                store.images[row], np.rot90(image[:, :, store.z[row]]).astype(np.float16)
            )
    # Brains of 97 to 131 mm lie one on the other: the middle z-bins have the largest brains.
    priors = np.load(glioma.paths.prior(0))["priors"]
    areas = priors.sum(axis=(1, 2))
    assert areas.argmax() in (1, 2, 3) and areas[5] < 0.6 * areas.max()


def test_constants_in_mm_are_pixels_of_the_slice_whatever_lies_between_slices(glioma):
    """A ring of 6 mm has two pixels of 3 mm; the slices are 4 to 7 mm apart."""
    store = SliceStore.open(glioma.paths.store)
    assert store.spacing_mm == 3.0 and store.slice_mm > 3.5
    config = EvaluationConfig(min_component_mm2=27.0, ring_mm=6.0)
    evaluation = FoldEvaluation(store, np.arange(4), np.arange(4, 8), None, config, None, {})
    assert (evaluation.min_px, evaluation.ring_px) == (3, 2)
    assert store.facts["min_lesion_px"] == max(1, round(glioma.slices.min_lesion_mm2 / 9))


def test_a_glioma_mask_comes_back_to_its_own_voxels(glioma, shared_data, tmp_path):
    name = PATIENTS[0]
    source = nibabel.load(shared_data / "lgg" / "native" / f"{name}_mask.nii.gz")
    volume_to_source(glioma.paths, name, glioma.paths.volume(name, "mask"), tmp_path / "back.nii.gz")
    back = nibabel.load(tmp_path / "back.nii.gz")
    assert back.shape == source.shape
    image = nibabel.load(shared_data / "lgg" / "native" / f"{name}_FLAIR.nii.gz")
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-3)
    given, found = (np.asarray(image.dataobj) > 0 for image in (source, back))
    assert 2 * (given & found).sum() / (given.sum() + found.sum()) > 0.88, "pixels of 3 mm for 1.5 mm"
    np.testing.assert_array_equal(given.any(axis=(0, 1)), found.any(axis=(0, 1)))


def test_raw_heads_of_open_ms_by_mm(shared_data, tmp_path):
    source = shared_data / "open_ms_raw"
    if not source.is_dir():
        pytest.skip(f"no raw volumes at {source}")
    rows, files = [], {}
    for name, scan in (("patient04", "study1"), ("patient09", "study2"), ("patient12", "study1")):
        files[name] = source / name / f"{scan}_FLAIR.nii.gz"
        image = nibabel.load(files[name])
        # A lesion mask of our own, because the data have none on this grid: 24 mm in five slices of the middle.
        mask = np.zeros(image.shape, np.uint8)
        x, y, z = (n // 2 for n in image.shape)
        half = round(12 / image.header.get_zooms()[0])
        mask[x - half : x + half, y - half : y + half, z - 2 : z + 3] = 1
        rows.append((name, files[name], save_nifti(tmp_path / f"{name}_mask.nii.gz", mask, image.affine)))
    study = run(
        tmp_path,
        rows,
        ("participants", "preprocess", "kfold", "cache"),
        preprocess={"spacing_mm": [2.5, 2.5, "native"], "grid": [96, 112, 60]},
        slices={"n_bins": 8, "height": "mm", "min_lesion_mm2": 0},
    )
    store = SliceStore.open(study.paths.store)
    for name, path in files.items():
        image = nibabel.load(path)
        volume = nibabel.load(study.paths.volume(name, "image"))
        assert volume.shape == (96, 112, image.shape[2]), "36 to 48 slices of 3 to 3.3 mm"
        # A slice is in the same plane of the scanner: its normal and its place along it.
        normal = np.cross(image.affine[:3, 0], image.affine[:3, 1])
        normal /= np.linalg.norm(normal)
        flipped = normal @ volume.affine[:3, 2] * (normal @ image.affine[:3, 2]) < 0
        for z in (0, 10, image.shape[2] - 1):
            there = normal @ (volume.affine @ (40, 50, z, 1))[:3]
            own = image.shape[2] - 1 - z if flipped else z
            assert there == pytest.approx(normal @ (image.affine @ (0, 0, own, 1))[:3], abs=1e-3)
        rows_of = store.rows_of([name])
        mm = (store.z[rows_of] - store.z[rows_of].min()) * image.header.get_zooms()[2]
        width = store.facts["z_range"][1] / 8
        assert np.abs(store.z_bin[rows_of] - mm / width + 0.5).max() <= 0.51, (
            "within half a bin of the centre"
        )
        assert store.label[rows_of].sum() == 5 and np.diff(store.z[rows_of]).max() == 1
    assert 110 < store.facts["z_range"][1] < 180, "heads, in mm"


def test_a_whole_study_of_stacks_that_differ_in_slices_and_orientation(tmp_path):
    """From files to exported samples; every stack has another number of slices."""
    rows = []
    for number, codes in enumerate(("RAS", "LPS", "SAL", "LAS")):
        values, lesion, affine = stack(codes, tilt=0.1 * number, slices=16 + 3 * number)
        image = save_nifti(tmp_path / f"p{number}_FLAIR.nii.gz", values + number, affine)
        rows.append(
            (
                f"p{number}",
                image,
                save_nifti(tmp_path / f"p{number}_mask.nii.gz", lesion.astype(np.uint8), affine),
            )
        )
    tiny = study_mapping(tmp_path, tmp_path)
    study = run(
        tmp_path,
        rows,
        ("participants", "preprocess", "kfold", "cache", "priors", "train", "generate", "export"),
        preprocess={"spacing_mm": [6.0, 6.0, "native"], "grid": [32, 32, 30], "harmonise": "histogram"},
        slices={"n_bins": 3, "min_lesion_mm2": 0},
        **{key: tiny[key] for key in ("model", "training")},
        generation={**tiny["generation"], "where": "everywhere"},
        export={"formats": ["bids", "nnunet"]},
    )
    store, card = (
        SliceStore.open(study.paths.store),
        read_card(study.paths.model("base", 0) / "model.safetensors"),
    )
    assert store.slice_mm == pytest.approx(THICK_MM, abs=1e-4)
    assert (card.height, card.z_range, card.spacing_mm) == ("relative", (0.0, 1.0), 6.0)
    assert card.data.bin_centres == pytest.approx([100 / 6, 50, 500 / 6])
    brain = np.median(list(store.facts["brain_mm"].values()))
    samples = sorted(study.paths.export("bids", "base", 0).rglob("*FLAIR.nii.gz"))
    assert len(samples) == 3 * 2 * 2
    for path in samples:
        image, z_bin = nibabel.load(path), int(path.name.partition("zbin")[2][:2])
        assert image.shape == (32, 32, 1) and image.header.get_zooms() == pytest.approx(
            (6, 6, THICK_MM), abs=1e-4
        )
        assert image.affine[2, 3] == pytest.approx((z_bin + 0.5) / 3 * brain, abs=1e-3)
    # A real slice of the export is at its place in the scanner.
    real = next(study.paths.export("nnunet", "base", 0).rglob("imagesTr/p2_z*"), None)
    real = real or next(study.paths.export("nnunet", "base", 0).rglob("imagesTs/p2_z*"))
    z = int(real.name.partition("_z")[2][:3])
    volume = nibabel.load(study.paths.volume("p2", "image"))
    np.testing.assert_allclose(
        nibabel.load(real).affine @ (3, 4, 0, 1), volume.affine @ (3, 4, z, 1), atol=1e-3
    )
    for slices in (datasets.real_slices(study, 0, "train"), datasets.synthetic_slices(study, "base", 0)):
        assert slices.as_subjects()[0].image.spacing == pytest.approx((6, 6, THICK_MM), abs=1e-4)
