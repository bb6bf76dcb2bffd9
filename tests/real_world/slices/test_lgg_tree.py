"""config/lgg.yaml on a stand-in of the dataset's tree: every stage up to the slice store, and the workflow."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from helpers.slice_tree import LGG, lgg_patient, save_picture, write_lgg
from helpers.workflow_runs import ROOT, job_counts, snakemake
from scipy import ndimage

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.data.store import SliceStore
from slimdiff.data.zbins import z_bin
from slimdiff.files import read_table

CONFIG = ROOT / "config" / "lgg.yaml"
PATIENTS = {
    # name: slices that show the brain, empty ones below and above it
    "TCGA_CS_4941_19960909": (20, (2, 1)),
    "TCGA_DU_5849_19950405": (29, (0, 0)),
    "TCGA_DU_5851_19950428": (26, (3, 0)),
    "TCGA_HT_7473_19970826": (21, (0, 4)),
}
SPACING, SIDE, DEPTH = 1.5, 128, 24


@pytest.fixture(scope="module")
def patients():
    return {name: lgg_patient(*parts, seed) for seed, (name, parts) in enumerate(PATIENTS.items())}


def study_file(folder: Path, **changes) -> Path:
    """config/lgg.yaml, with another folder of the data and of the results, and other sections."""
    values = yaml.safe_load(CONFIG.read_text())
    assert values["data"]["root"] == LGG
    values["data"]["root"], values["results_dir"] = str(folder / LGG), str(folder / "results")
    values |= changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def chain(tmp_path_factory, patients):
    """The study after the stages from participants to cache, run by their commands."""
    folder = tmp_path_factory.mktemp("lgg")
    write_lgg(folder, patients)
    config = study_file(folder)
    for stage, *more in (
        ("participants", "--workers", "2"),
        ("preprocess",),
        ("quality",),
        ("kfold",),
        ("cache",),
    ):
        assert getattr(cli, stage)(["--config", str(config), *more]) == 0, stage
    return load_study(config)


def slice_shown(plane: int, shown: int) -> int:
    """Which of the slices that show the brain, from 0, is nearest to the middle of a plane of the grid."""
    heights = (np.arange(shown) + 0.5) / shown
    return int(np.abs(heights - (plane + 0.5) / DEPTH).argmin())


def test_participants_have_the_site_and_the_names_of_the_tree(chain):
    rows = read_table(chain.paths.participants)
    assert [row["participant_id"] for row in rows] == sorted(PATIENTS)
    assert [row["site"] for row in rows] == ["CS", "DU", "DU", "HT"]
    assert (rows[0]["patient"], rows[0]["date"]) == ("4941", "19960909")
    assert {row["group"] for row in rows} == {"patient"} and {row["excluded"] for row in rows} == {"n/a"}


def test_quality_control_reads_the_flair_channel_and_finds_no_fault(chain, patients):
    for row in read_table(chain.paths.quality):
        images, masks = patients[row["participant_id"]]
        shown = PATIENTS[row["participant_id"]][0]
        assert row["verdict"] in ("ok", "shown") and row["dtype"] == "uint8"
        assert row["shape"] == f"256 x 256 x {shown}" and row["orientation"] == "LPS"
        assert float(row["maximum"]) == images[..., 1].max()
        voxel_ml = 0.9375**2 * 36 / shown / 1000
        assert float(row["lesion_ml"]) == pytest.approx((masks > 0).sum() * voxel_ml, rel=1e-5)
        assert "flip_suspected" not in row["flags"]


@pytest.mark.parametrize("name", PATIENTS)
def test_every_plane_of_the_grid_is_the_slice_at_its_relative_height(chain, patients, name):
    """By an independent computation of position, interpolation in plane and scaling."""
    images, masks = patients[name]
    shown, (below, _) = PATIENTS[name]
    found = np.asarray(nibabel.load(chain.paths.volume(name, "image")).dataobj)
    lesion = np.asarray(nibabel.load(chain.paths.volume(name, "mask")).dataobj)
    assert found.shape == (SIDE, SIDE, DEPTH)
    record = json.loads(chain.paths.volume_json(name).read_text())
    low, high = record["history"][-1]["scale_to_unit_range"]
    # Right and anterior of the middle of the picture, in mm; columns go to the left, rows to the back.
    mm = (np.arange(SIDE) - (SIDE - 1) / 2) * SPACING
    columns, rows = np.meshgrid(127.5 - mm / 0.9375, 127.5 - mm / 0.9375, indexing="ij")
    seen = set()
    for plane in range(DEPTH):
        number = below + slice_shown(plane, shown)
        seen.add(number)
        picture = images[number, ..., 1].astype(np.float64)
        value = ndimage.map_coordinates(picture, [rows, columns], order=1, mode="nearest")
        expected = np.clip((value - low) * 2 / (high - low) - 1, -1, 1)
        inside = found[..., plane] > -1
        assert inside.mean() > 0.1
        np.testing.assert_allclose(found[..., plane][inside], expected[inside], atol=1e-4)
        nearest = ndimage.map_coordinates(masks[number], [rows, columns], order=0, mode="nearest") > 0
        assert (nearest != (lesion[..., plane] > 0)).mean() < 1e-3
    assert len(seen) == min(DEPTH, shown)


def test_the_lesion_is_on_the_right_and_in_front_of_the_middle(chain, patients):
    """It lies in the left half of the picture, above its middle row."""
    for name in patients:
        mask = nibabel.load(chain.paths.volume(name, "mask"))
        centre = mask.affine @ [*np.argwhere(np.asarray(mask.dataobj)).mean(axis=0), 1]
        expected = ((127.5 - 90) * 0.9375, (127.5 - 110) * 0.9375, 0)
        np.testing.assert_allclose(centre[:3], expected, atol=1.0)


def test_the_store_has_each_plane_in_its_z_bin_with_its_class(chain):
    store = SliceStore.open(chain.paths.store)
    rows = read_table(chain.paths.store / "slices.tsv")
    first, last = json.loads((chain.paths.store / "store.json").read_text())["z_range"]
    assert (first, last) == (0, DEPTH - 1) and {row["participant"] for row in rows} == set(PATIENTS)
    for number, row in enumerate(rows):
        z, lesion = int(row["z"]), nibabel.load(chain.paths.volume(row["participant"], "mask"))
        plane = np.asarray(lesion.dataobj)[:, :, z]
        # Rows of a stored slice go from the front to the back, columns from left to right.
        np.testing.assert_array_equal(store.masks[number], np.rot90(plane))
        assert int(row["class"]) == int(plane.any()) and int(row["z_bin"]) == z_bin(z, first, last, 6)
    assert {row["class"] for row in rows} == {"0", "1"}


def test_every_patient_is_tested_once_and_provenance_has_the_hash_of_its_slices(chain):
    folds = [row for row in read_table(chain.paths.folds) if row["split"] == "test"]
    assert sorted(row["participant"] for row in folds) == sorted(PATIENTS)
    for row in read_table(chain.paths.quality):
        record = json.loads(chain.paths.volume_json(row["participant_id"]).read_text())
        assert record["source_sha256"] == {"image": row["image_sha256"], "mask": row["mask_sha256"]}
        assert record["history"][0]["step"] == "stack"
        assert record["history"][0]["first"].startswith(row["participant_id"])


def test_the_shipped_study_is_planned_in_a_folder_with_the_tree(tmp_path, patients):
    write_lgg(tmp_path, {name: (images[:2], masks[:2]) for name, (images, masks) in patients.items()})
    done = snakemake("--dry-run", "--configfile", str(CONFIG), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = job_counts(done.stdout)
    assert (counts["participants"], counts["preprocess"], counts["train"]) == (1, 4, 3)


def test_without_the_tree_the_study_says_which_folder_it_expects(tmp_path):
    done = snakemake("--dry-run", "--configfile", str(CONFIG), folder=tmp_path)
    assert (
        done.returncode != 0
        and f"data.root: expected the folder of the slices, found no folder {LGG}"
        in (done.stdout + done.stderr)
    )


def test_the_workflow_makes_again_only_the_volume_of_a_slice_that_changed(tmp_path, patients):
    """Braces of the patterns reach the commands unchanged."""
    two = dict(list(patients.items())[:2])
    write_lgg(tmp_path, two)
    config = study_file(tmp_path, folds={"k": 2}, preprocess={"spacing_mm": 3.0, "grid": [64, 64, 12]})
    done = snakemake("preprocessed", "--cores", "2", "--configfile", str(config), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    def planned(*changes) -> dict[str, int]:
        again = snakemake("preprocessed", "--dry-run", "--configfile", str(config), *changes, folder=tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
        nothing = "Nothing to be" in again.stdout + again.stderr
        return {} if nothing else job_counts(again.stdout)

    assert planned() == {}
    name = next(iter(two))
    mask = tmp_path / LGG / name / f"{name}_12_mask.tif"
    before = mask.read_bytes()
    newest = max(path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*") if path.is_file())
    save_picture(mask, np.full((256, 256), 255, np.uint8))
    os.utime(mask, ns=(newest + 1_000_000,) * 2)
    assert planned()["preprocess"] == 1
    mask.write_bytes(before)
    os.utime(mask, ns=(newest - 10**12,) * 2)
    # Another nominal height moves the slices of all participants.
    values = yaml.safe_load(config.read_text())
    values["data"]["slices"]["height_mm"] = 40
    config.write_text(yaml.safe_dump(values))
    assert planned()["preprocess"] == 2
