"""Views of a study's results for your own training code: `torch.utils.data.Dataset` and `torchio.SubjectsDataset`.

from torch.utils.data import ConcatDataset, DataLoader
from slimdiff.config import load_study
from slimdiff.datasets import real_slices, synthetic_slices

study = load_study("config/demo.yaml")
both = ConcatDataset([real_slices(study, fold=0, part="train"), synthetic_slices(study, "base", fold=0)])
for batch in DataLoader(both, batch_size=16, shuffle=True):
    batch["image"], batch["mask"]  # (16, 1, H, W)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_included
from slimdiff.data.store import SliceStore
from slimdiff.files import MISSING
from slimdiff.generation.samples import read_samples
from slimdiff.stored_rows import Rows

if TYPE_CHECKING:
    from torchio import SubjectsDataset


class SliceDataset(Dataset):
    """Slices with lesion masks; an item is a dictionary, the same for real and synthetic slices.

    Keys of an item: `image` (1, H, W) float32 in [-1, 1]; `mask` (1, H, W) float32 {0, 1}; `z_bin` and `label` (1:
    lesion slice) int; `name` str; `participant` str, n/a for a synthetic slice.

    Args:
        images: (N, H, W) in [-1, 1]; may be memory-mapped.
        masks: (N, H, W), any number above `threshold` is lesion.
        rows: the index of each item in the arrays.
        facts: key, (N,) values, for the other keys.
        spacing_mm: side of a pixel.
        threshold: of the mask's values.
        slice_mm: distance between slices; None: that of an isotropic grid.
    """

    def __init__(
        self,
        images: np.ndarray | Rows,
        masks: np.ndarray | Rows,
        rows: Sequence[int] | np.ndarray,
        facts: dict[str, Sequence],
        spacing_mm: float,
        threshold: float = 0,
        slice_mm: float | None = None,
    ):
        self.images, self.masks, self.rows, self.facts = images, masks, np.asarray(rows, int), facts
        self.spacing_mm, self.threshold = spacing_mm, threshold
        self.slice_mm = spacing_mm if slice_mm is None else slice_mm

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        row = int(self.rows[index])
        image = np.asarray(self.images[row], np.float32)
        mask = np.asarray(self.masks[row], np.float32) > np.float32(self.threshold)
        item = {"image": torch.from_numpy(image)[None], "mask": torch.from_numpy(mask)[None].float()}
        return item | {key: values[row] for key, values in self.facts.items()}

    def as_subjects(self) -> "SubjectsDataset":
        """The same slices as torchio subjects: `image` a ScalarImage, `mask` a LabelMap, (1, W, H, 1), RAS+.

        The slices are read into memory.
        """
        from torchio import LabelMap, ScalarImage, Subject, SubjectsDataset

        affine = np.diag([self.spacing_mm, self.spacing_mm, self.slice_mm, 1])

        def subject(item: dict) -> Subject:
            # Rows run from anterior to posterior, torchio's second axis from posterior to anterior.
            image, mask = (torch.rot90(item.pop(key), -1, (1, 2))[..., None] for key in ("image", "mask"))
            return Subject(
                image=ScalarImage(tensor=image, affine=affine),
                mask=LabelMap(tensor=mask.to(torch.uint8), affine=affine),
                **item,
            )

        return SubjectsDataset([subject(self[i]) for i in range(len(self))])


def real_slices(study: Study, fold: int, part: str = "train") -> SliceDataset:
    """The real slices of a fold's `train`, `val` or `test` subjects, from the slice store.

    Raises:
        ValueError: another part, or a fold that the study lacks.
        FileNotFoundError: the stages cache and kfold have not run.
    """
    store = SliceStore.open(study.paths.store)
    parts = read_folds(study.paths.folds, fold)
    if part not in parts:
        raise ValueError(f"part: expected one of {', '.join(parts)}, found {part!r}")
    names = [f"{name}_z-{z:03d}" for name, z in zip(store.participant, store.z, strict=True)]
    facts = {
        "z_bin": store.z_bin.tolist(),
        "label": store.label.tolist(),
        "name": names,
        "participant": store.participant.tolist(),
    }
    rows = store.rows_of(parts[part])
    return SliceDataset(store.images, store.masks, rows, facts, store.spacing_mm, slice_mm=store.slice_mm)


def synthetic_slices(study: Study, variant: str, fold: int) -> SliceDataset:
    """The samples of one variant and fold; masks are thresholded at the study's `export.tau`.

    Raises:
        FileNotFoundError: the stage generate has not run.
    """
    samples = read_samples(study.paths.samples(variant, fold), study.slices.n_bins)
    facts = {
        "z_bin": samples.z_bin.tolist(),
        "label": samples.label.tolist(),
        "name": samples.id.tolist(),
        "participant": [MISSING] * len(samples.id),
    }
    threshold = study.variant(variant).export.tau or 0.0
    rows = range(len(samples.id))
    grid = study.preprocess
    # Native slices have their distance in the store only.
    slice_mm = SliceStore.open(study.paths.store).slice_mm if grid.native else grid.slice_mm
    return SliceDataset(samples.images, samples.masks, rows, facts, grid.pixel_mm, threshold, slice_mm)


def real_volumes(study: Study, fold: int | None = None, part: str = "train") -> "SubjectsDataset":
    """Preprocessed volumes as torchio subjects: `image`, `mask` (read when needed), `participant`, `acquisition`.

    Args:
        study: whose stage preprocess has run.
        fold: None: all included participants; else those of this fold's `part`.
        part: `train`, `val` or `test`.

    Raises:
        ValueError: another part, or a fold that the study lacks.
        FileNotFoundError: a file is missing.
    """
    from torchio import LabelMap, ScalarImage, Subject, SubjectsDataset

    paths = study.paths
    rows = [row for row in read_included(paths.participants, paths.volume_json) if row.included]
    if fold is not None:
        parts = read_folds(paths.folds, fold)
        if part not in parts:
            raise ValueError(f"part: expected one of {', '.join(parts)}, found {part!r}")
        rows = [row for row in rows if row.participant_id in parts[part]]
    return SubjectsDataset(
        [
            Subject(
                image=ScalarImage(paths.volume(row.participant_id, "image")),
                mask=LabelMap(paths.volume(row.participant_id, "mask")),
                participant=row.participant_id,
                acquisition=row.acquisition,
            )
            for row in rows
        ]
    )
