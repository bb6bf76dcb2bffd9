"""A head and a lesion, preprocessed on their own grid."""

import json
from pathlib import Path

import nibabel
import numpy as np
from helpers.synthetic import SPACING_MM, ball, head, save_nifti

from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import Participant
from slimdiff.data.volumes.preprocess import preprocess

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


def percentile_twin(values: np.ndarray, percent: float) -> float:
    """Percentiles by linear interpolation between order statistics."""
    ordered = np.sort(values.astype(np.float64).ravel())
    place = percent / 100 * (len(ordered) - 1)
    below = int(np.floor(place))
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def files_of(
    participant: Participant,
    config: PreprocessConfig,
    folder: Path,
    quality: QualityConfig | None = None,
    **data,
) -> list[bytes]:
    out = [folder / name for name in ("image.nii.gz", "mask.nii.gz", "record.json")]
    preprocess(participant, DataConfig(**data), config, *out, quality)
    return [path.read_bytes() for path in out]


def with_brain(folder: Path, brain: np.ndarray | None, lesion: np.ndarray = LESION) -> Participant:
    image = save_nifti(folder / "image.nii.gz", head(1) + 50)
    mask = save_nifti(folder / "mask.nii.gz", lesion.astype(np.uint8))
    path = None if brain is None else save_nifti(folder / "brain.nii.gz", brain.astype(np.uint8))
    return Participant("sub-1", "fcd", image, mask, brain_mask=path)
