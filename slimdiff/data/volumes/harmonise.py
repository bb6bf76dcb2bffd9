"""Histogram standardisation between scanners (Nyúl et al. 2000), by torchio.

The landmarks are the 1st, 10th, 20th, 25th, 30th, 40th, 50th, 60th, 70th, 75th, 80th, 90th and 99th percentile of each
brain or head, averaged over the volumes that they are learned from. Every volume is then mapped piecewise linearly, so
that its own percentiles fall on the landmarks.

It works on preprocessed volumes in [-1, 1]. That scaling is linear between the percentiles 0.5 and 99.5, so the
landmarks are those of the scanner's own intensities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes.read import read_volume

BACKGROUND = -1.0
"""Value of every voxel outside the foreground of a preprocessed volume."""
NAME = "image"


@dataclass(frozen=True)
class Landmarks:
    """A standard histogram; store.json holds it."""

    landmarks: tuple[float, ...]
    """The 13 landmarks on torchio's scale: 0 is the 1st percentile, 100 the 99th."""
    low: float
    """Mean 1st percentile of the volumes that they are learned from, in [-1, 1]: the value of landmark 0."""
    high: float
    """Mean 99th percentile, the value of landmark 100."""
    learned_from: str
    """`training subjects of the split` or `all included participants`."""
    participants: tuple[str, ...]


def training_rows(participants: Sequence[Participant], use_split: bool) -> tuple[list[Participant], str]:
    """The participants whose volumes the landmarks are learned from, and which they are in words.

    use_split: the study tests on the dataset's own part `test`; then no test subject is among them. Without a split
    every participant is a test subject of some fold, so all are used.
    """
    if use_split:
        return [row for row in participants if row.split.lower() != "test"], "training subjects of the split"
    return list(participants), "all included participants"


def learn(volumes: Sequence[Path], names: Sequence[str], learned_from: str) -> Landmarks:
    """Learn the landmarks of preprocessed volumes.

    Args:
        volumes: paths of volumes (X, Y, Z) in [-1, 1], background -1.
        names: participant_id of each.
        learned_from: which participants they are, in words.

    Raises:
        DataError: no volume.
    """
    from torchio import HistogramStandardization

    if not volumes:
        raise DataError("landmarks: expected at least one participant to learn from, found none")
    found = HistogramStandardization.train(
        list(volumes), masking_function=lambda tensor: (tensor > BACKGROUND).numpy(), progress=False
    )
    ends = np.array(
        [_ends(read_volume(path, name).values) for path, name in zip(volumes, names, strict=True)]
    )
    low, high = (float(value) for value in ends.mean(axis=0))
    return Landmarks(tuple(map(float, found)), low, high, learned_from, tuple(names))


def _ends(values: np.ndarray) -> np.ndarray:
    return np.percentile(values[values > BACKGROUND], (1, 99))


def apply(values: np.ndarray, landmarks: Landmarks) -> np.ndarray:
    """A preprocessed volume with its percentiles on the landmarks: (X, Y, Z) float32 in [-1, 1], background -1."""
    import torch
    from torchio import HistogramStandardization, ScalarImage, Subject

    transform = HistogramStandardization(
        {NAME: np.array(landmarks.landmarks)}, masking_method=lambda tensor: tensor > BACKGROUND
    )
    volume = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
    scale = transform(Subject({NAME: ScalarImage(tensor=volume)}))[NAME].data[0].numpy()
    mapped = landmarks.low + (landmarks.high - landmarks.low) / 100 * scale
    return np.where(values > BACKGROUND, np.clip(mapped, -1, 1), np.float32(BACKGROUND)).astype(np.float32)
