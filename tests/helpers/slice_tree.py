"""Trees of slices as pictures, made of small synthetic heads."""

from pathlib import Path

import numpy as np
from PIL import Image

LGG = "data/lgg-mri-segmentation/kaggle_3m"
LGG_SIDE = 256


def save_picture(path: Path, values: np.ndarray) -> Path:
    """Save an array as the picture that its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


def numbered(count: int, shape: tuple[int, int] = (12, 16)) -> np.ndarray:
    """Pictures (count, rows, columns) uint8 in which each pixel says where it is: 100 + 10 z + column + row / 2."""
    z, rows, columns = np.indices((count, *shape))
    return (100 + 10 * z + columns + rows // 2).astype(np.uint8)


def lgg_patient(slices: int, empty: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, 256, 256, 3) and masks (n, 256, 256) with 0 and 255, as in the LGG dataset, without a patient.

    slices: those that show the brain; empty: those below and above it. The lesion is in the picture's left half, and
    its place in the middle channel only is bright.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((LGG_SIDE, LGG_SIDE))
    images, masks = [], []
    for number in range(slices):
        height = 1.6 * (number + 0.5) / slices - 0.8
        radius = np.sqrt(1 - height**2)
        brain = ((columns - 128) / 70) ** 2 + ((rows - 120) / 85) ** 2 < radius**2
        # The front, which is up, is brighter, and so is every slice above the one below.
        flair = 100 + 40 * (rows < 100) + 2 * number + rng.normal(0, 3, brain.shape)
        lesion = ((columns - 90) ** 2 + (rows - 110) ** 2 < 15**2) & (abs(height) < 0.4)
        flair = np.where(brain, np.where(lesion, 220, flair), 0)
        before, after = np.where(brain, 60, 0), np.where(brain, 230 - flair / 2, 0)
        images.append(np.stack([before, flair, after], axis=-1).clip(0, 255).astype(np.uint8))
        masks.append(np.where(lesion, 255, 0).astype(np.uint8))
    below, above = (np.zeros((count, *images[0].shape), np.uint8) for count in empty)
    volume = np.concatenate([below, images, above])
    return volume, np.concatenate([below[..., 0], masks, above[..., 0]])


def write_lgg(root: Path, patients: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """The tree of the dataset: a folder a patient with its numbered pairs, and a table of clinical data."""
    folder = root / LGG
    for name, (images, masks) in patients.items():
        for number, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
            save_picture(folder / name / f"{name}_{number}.tif", image)
            save_picture(folder / name / f"{name}_{number}_mask.tif", mask)
    lines = ["Patient,gender", *(f"{name.rpartition('_')[0]},1" for name in patients)]
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder
