"""Synthetic heads, a BIDS dataset of them and the tiny study that the tests run."""

import json
from pathlib import Path

import nibabel
import numpy as np

from slimdiff.data.fetch.download import read_file_manifest

PATIENTS, CONTROLS = 6, 2
SPACING_MM = 6.0
AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
AFFINE[:3, 3] = -93.0


def head(seed: int, shape: tuple[int, int, int] = (32, 32, 32)) -> np.ndarray:
    """An ellipsoid with a darker core and noise, float32, 0 outside it."""
    rng = np.random.default_rng(seed)
    x, y, z = (np.linspace(-1, 1, n) for n in shape)
    radius = np.sqrt(
        (x[:, None, None] / 0.7) ** 2 + (y[None, :, None] / 0.8) ** 2 + (z[None, None, :] / 0.75) ** 2
    )
    tissue = 100 + 20 * (radius > 0.6) + rng.normal(0, 4, shape)
    return np.where(radius < 1, tissue, 0).astype(np.float32)


def ball(
    centre: tuple[int, int, int], radius: float, shape: tuple[int, int, int] = (32, 32, 32)
) -> np.ndarray:
    """A ball of voxels, bool."""
    grids = np.indices(shape)
    return sum((grid - c) ** 2 for grid, c in zip(grids, centre, strict=True)) <= radius**2


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def write_bids(root: Path, patients: int = PATIENTS, controls: int = CONTROLS) -> Path:
    """Patients sub-01, sub-02, ... with a lesion ball each, then controls; participants.tsv with a BOM."""
    lines = ["participant_id\tgroup\tsite\tlobe"]
    for number in range(1, patients + controls + 1):
        name = f"sub-{number:02d}"
        volume = head(number)
        anat = root / name / "anat"
        if number <= patients:
            lesion = ball((12 + number % 3 * 4, 14, 16), 3.5)
            volume[lesion] += 40
            save_nifti(anat / f"{name}_FLAIR_roi.nii.gz", lesion.astype(np.uint8))
        save_nifti(anat / f"{name}_FLAIR.nii.gz", volume)
        lines.append(f"{name}\t{'fcd' if number <= patients else 'hc'}\tbonn\tn/a")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    (root / ".bidsignore").write_text("*_roi.nii.gz\n")
    return root


SMALL_NETWORK = {
    "channels": [16, 32],
    "res_blocks": 1,
    "attention": [False, True],
    "head_channels": 16,
    "norm_groups": 8,
}
"""Section `model` of a network for slices of 32 x 32 px."""


def study_mapping(bids_root: Path, results: Path) -> dict:
    return {
        "study": "tiny",
        "results_dir": str(results),
        "data": {"source": "bids", "root": str(bids_root)},
        "quality": {"max_spacing_mm": SPACING_MM + 1},
        "preprocess": {"spacing_mm": SPACING_MM, "grid": [32, 32, 32]},
        "slices": {
            "z_range": [11, 20],
            "n_bins": 3,
            "min_lesion_mm2": 72.0,
        },
        "folds": {"k": 2},
        "model": dict(SMALL_NETWORK),
        "training": {
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "ema_decay": 0.9,
            "log_every": 2,
            "save_every": 3,
            "preview_every": 0,
            "tensorboard": False,
            "validation": {"samples": 0},
            "device": "cpu",
            "precision": "float32",
        },
        "generation": {"evaluations": 4, "per_bin_and_class": 2, "batch_size": 4, "device": "cpu"},
    }


def ds004199_patients() -> list[str]:
    """Subjects of ds004199 with a lesion mask."""
    files = read_file_manifest("ds004199").files
    return sorted(file.path.parts[0] for file in files if file.path.name.endswith("_roi.nii.gz"))


def ds004199_two_dimensional() -> list[str]:
    """Subjects of ds004199 whose FLAIR is a 2-D acquisition."""
    return sorted(
        file.path.parts[0] for file in read_file_manifest("ds004199").files if file.acquisition_type == "2D"
    )


def write_ds004199(root: Path) -> Path:
    """ds004199's tree by its manifest, as after a fetch, with empty images and invented metadata: 28 patients in
    split test, all other subjects in train, seven sidecars of thick slices, a byte-order mark."""
    files, patients = read_file_manifest("ds004199").files_for(), ds004199_patients()
    kinds = {file.path.name.removesuffix(".nii.gz"): file.acquisition_type for file in files}
    for file in files:
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if path.name.endswith("_FLAIR.json"):
            kind = kinds[path.stem]
            facts = {"MRAcquisitionType": kind, "SliceThickness": 4 if kind == "2D" else 1}
            path.write_text(json.dumps(facts))
    rows = ["participant_id\tgroup\tsex\tlobe\tsplit"]
    for number in range(1, 171):
        name = f"sub-{number:05d}"
        split = "test" if name in patients[::3][:28] else "train"
        lobe = "TL,OL" if number % 7 == 0 else "FL"
        rows.append(f"{name}\t{'fcd' if name in patients else 'hc'}\tM\t{lobe}\t{split}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    for name in ("participants.json", "dataset_description.json"):
        (root / name).write_text("{}")
    (root / ".bidsignore").write_text("*_roi.nii.gz\n")
    return root
