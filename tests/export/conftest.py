"""A tiny study with all inputs of the export: oblique volumes, a slice store, folds and samples."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from slimdiff.config import study_from_mapping
from slimdiff.config.slices import SlicesConfig
from slimdiff.data.folds import COLUMNS as FOLD_COLUMNS
from slimdiff.data.participants import Participant, write_participants
from slimdiff.data.slices import build_store
from slimdiff.files import write_table
from slimdiff.generation.samples import COLUMNS as SAMPLE_COLUMNS
from slimdiff.generation.samples import Run, SampleSettings, write_samples

GRID = (10, 12, 9)
SPACING_MM = 2.0
Z_RANGE = (2, 7)
N_BINS = 3
PER_BIN_AND_CLASS = 2
# Fold 1 has no validation subjects.
FOLDS = (
    {"sub-1": "train", "sub-2": "train", "sub-3": "val", "sub-4": "test"},
    {"sub-1": "test", "sub-2": "test", "sub-3": "train", "sub-4": "train"},
)
CHECKPOINT = "ab" * 32


def oblique(number: int) -> np.ndarray:
    """A rigid affine with 2 mm voxels, with a different tilt for each subject."""
    a, b = 0.1 + 0.05 * number, 0.2 - 0.07 * number
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z * SPACING_MM
    affine[:3, 3] = -8 + number, -11, 30 - number
    return affine


def write_volumes(paths) -> None:
    """Volumes of all subjects: noise and a lesion without any symmetry; sub-4 has no lesion."""
    for number, name in enumerate(FOLDS[0]):
        rng = np.random.default_rng(number)
        volume = rng.uniform(-0.8, 1, GRID).astype(np.float16).astype(np.float32)
        lesion = np.zeros(GRID, np.uint8)
        if name != "sub-4":
            lesion[1:4, 7:11, 3:6] = 1
            lesion[3, 7, 3:6] = 0
        for kind, voxels in (("image", volume), ("mask", lesion)):
            path = paths.volume(name, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, oblique(number)), path)


def write_cell_samples(paths, store_size, variant: str, fold: int) -> None:
    """Noise images; masks of class 1 have values below and above 0 and 0.3."""
    for z_bin in range(N_BINS):
        rng = np.random.default_rng((fold, z_bin))
        rows = []
        for label in (0, 1):
            for index in range(PER_BIN_AND_CLASS):
                rows.append(
                    dict.fromkeys(SAMPLE_COLUMNS, "n/a")
                    | {
                        "id": f"zbin-{z_bin:02d}_class-{label}_replica-0_{index:05d}",
                        "key": f"seed=0/fold={fold}/zbin={z_bin}/class={label}/replica=0/index={index}",
                        "z_bin": z_bin,
                        "class": label,
                    }
                )
        images = rng.uniform(-1, 1, (len(rows), *store_size)).astype(np.float16)
        masks = np.full_like(images, -1)
        masks[PER_BIN_AND_CLASS:, 2:5, 1:7] = rng.uniform(-1, 0.85, (PER_BIN_AND_CLASS, 3, 6))
        masks[PER_BIN_AND_CLASS:, 2, 1] = 0.9
        masks[PER_BIN_AND_CLASS:, 3, 1] = 0.3
        settings = SampleSettings(
            {}, "model.safetensors", CHECKPOINT, None, None, [Run("cpu", "float32", False)]
        )
        write_samples(paths.samples_stem(variant, fold, z_bin), images, masks, rows, settings)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    study = study_from_mapping(
        {
            "study": "tiny",
            "results_dir": str(folder),
            "preprocess": {"spacing_mm": SPACING_MM, "grid": list(GRID)},
            "slices": {"z_range": list(Z_RANGE), "n_bins": N_BINS},
            "folds": {"k": 2},
            "report": {"notice": "invented, no patients"},
            "variants": {"base": {}, "other": {}},
        },
        complete=False,
    )
    paths = study.paths
    source = folder / "source"
    people = [
        Participant(name, "fcd", source / name / "anat" / f"{name}_FLAIR.nii.gz", source / "mask.nii.gz")
        for name in FOLDS[0]
    ]
    for person in people:
        person.image.parent.mkdir(parents=True)
        person.image.with_name(f"{person.participant_id}_FLAIR.json").write_text('{"SkullStripped": true}')
    description = {
        "Name": "x",
        "BIDSVersion": "1.10.0",
        "DatasetDOI": "doi:10.18112/openneuro.ds004199.v1.0.6",
    }
    (source / "dataset_description.json").write_text(json.dumps(description))
    write_participants(paths.participants, people)
    write_volumes(paths)
    build_store(
        people, paths.volume, SlicesConfig(z_range=Z_RANGE, n_bins=N_BINS, min_lesion_mm2=0), paths.store
    )
    rows = [
        {"participant": name, "fold": fold, "split": split}
        for fold, parts in enumerate(FOLDS)
        for name, split in parts.items()
    ]
    write_table(paths.folds, rows, FOLD_COLUMNS)
    for fold in range(2):
        write_cell_samples(paths, (GRID[1], GRID[0]), "base", fold)
    return study


@pytest.fixture
def study(_finished, tmp_path):
    """A copy of the tiny study in the folder of the test."""
    shutil.copytree(_finished.results_dir, tmp_path / "results")
    return _finished.model_copy(update={"results_dir": str(tmp_path / "results")})


@pytest.fixture
def cell(study):
    """Its variant `base`, fold 0."""
    return open_cell(study, 0)


def open_cell(study, fold: int):
    from slimdiff.data.store import SliceStore
    from slimdiff.export.cases import ModelSamples

    return ModelSamples.open(study, "base", fold, SliceStore.open(study.paths.store))


@pytest.fixture
def opened():
    """Opens variant `base` of a study at a fold."""
    return open_cell


@pytest.fixture
def configured():
    """A study with other keys in its section `export`."""

    def change(study, **values):
        return study.model_copy(update={"export": study.export.model_copy(update=values)})

    return change
