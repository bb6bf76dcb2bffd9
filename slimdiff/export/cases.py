"""What is exported: the real slices of a fold by its split, and the samples of the model trained on it."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import DataError
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.nifti import write_nifti
from slimdiff.data.volumes.read import read_volume_header
from slimdiff.files import read_table
from slimdiff.generation.samples import SAMPLE_NAME, read_arrays, read_manifest


def to_volume(plane: np.ndarray) -> np.ndarray:
    """(W, H, 1) in RAS from a slice (H, W); undoes `slimdiff.data.slices.axial`."""
    return np.rot90(plane, -1)[:, :, None]


def slice_affine(affine: np.ndarray, z: float) -> np.ndarray:
    """Affine (4, 4) in mm of the one-slice volume at index z of a volume with this affine."""
    shift = np.eye(4)
    shift[2, 3] = z
    return np.asarray(affine, float) @ shift


def canonical_affine(
    grid: tuple[int, int, int], spacing_mm: float, slice_mm: float | None = None
) -> np.ndarray:
    """Affine (4, 4) in mm of a grid (X, Y, Z) without a scanner: RAS, its centre at the origin.

    spacing_mm: side of a pixel. slice_mm: distance between slices; None: the same.
    """
    edges_mm = np.array([spacing_mm, spacing_mm, spacing_mm if slice_mm is None else slice_mm])
    affine = np.diag([*edges_mm, 1.0])
    affine[:3, 3] = -edges_mm * (np.asarray(grid) - 1) / 2
    return affine


def affine_at_height(grid: tuple[int, int, int], store: SliceStore, z_bin: int) -> np.ndarray:
    """Affine (4, 4) in mm of a sample's one-slice volume (W, H, 1), at the centre of its z-bin.

    Left-right and front-back the grid's centre is at the origin. Upwards it is, too, if z-bins are of slice numbers;
    otherwise 0 mm is the lowest slice with brain, and a relative height is one of the median brain.
    """
    affine = canonical_affine(grid, store.spacing_mm, store.slice_mm)
    centre = store.facts["bin_centres"][z_bin]
    if store.height == "slice":
        # A bin's centre counts each slice as [z, z + 1); a voxel's coordinate is that of its centre.
        return slice_affine(affine, centre - 0.5)
    if store.height == "relative":
        centre *= float(np.median(list(store.facts["brain_mm"].values())))
    affine[2, 3] = centre
    return affine


def read_affine(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine (4, 4) in mm and shape of a volume, from its header."""
    header = read_volume_header(path, Path(path).name)
    return header.get_best_affine(), header.get_data_shape()


def write_slice(path: Path, plane: np.ndarray, affine: np.ndarray, space: str) -> None:
    """Write a slice (H, W) as (W, H, 1) with its affine (4, 4); space: the coordinates it refers to, in NIfTI's
    terms."""
    write_nifti(path, to_volume(plane), affine, space)


FOLD_OF_KEY = re.compile(r"(?:^|/)fold=(\d+)(?:/|$)")
REAL_THRESHOLD = 0.5
"""Threshold of the store's masks, which are 0 and 1."""


@dataclass(frozen=True)
class Case:
    """One slice with its mask."""

    name: str
    """Stem of its file name, unique within a variant and fold."""
    image: np.ndarray
    """float16 (H, W) in [-1, 1]."""
    mask: np.ndarray
    """bool (H, W)."""
    affine: np.ndarray
    """(4, 4), mm: of the volume (W, H, 1) that holds the slice."""
    space: str
    """Coordinates of the affine, in NIfTI's terms: `scanner`, or `aligned` for the study's grid about the origin."""
    z_bin: int
    label: int
    """Class: 0 = no lesion in the slice (of a sample: the class it was conditioned on), 1 = lesion."""
    participant: str | None = None
    """Participant of a real slice."""
    sample: dict[str, str] | None = None
    """Manifest row of a synthetic slice."""

    @property
    def lesion_px(self) -> int:
        return int(self.mask.sum())

    def write(self, image: Path, mask: Path) -> None:
        """Write the image (float32) and the mask (uint8 {0, 1}) as NIfTI volumes of one slice."""
        write_slice(image, self.image.astype(np.float32), self.affine, self.space)
        write_slice(mask, self.mask.astype(np.uint8), self.affine, self.space)


@dataclass(frozen=True)
class LeftOut:
    """Samples that an export can leave out."""

    table: str
    """Table of the metrics stage with a row for every sample."""
    column: str
    """Its column that is 1 for these samples; a sample with several rows is one of them if any row has a 1."""
    shown: str
    """Table that lists them for readers."""
    words: str
    """What they are, after "samples that"."""


LEFT_OUT = {
    "without_suspects": LeftOut(
        "nearest.tsv", "flagged", "flagged.tsv", "the study's memorisation metric flagged"
    ),
    "without_outliers": LeftOut(
        "outliers.tsv", "outlier", "outliers.tsv", "the study's outlier score names broken"
    ),
}
"""Key of `export` to the samples that it leaves out."""
NOTHING_LEFT = "no sample is left to export; set export.without_suspects and export.without_outliers to false"


@dataclass(frozen=True)
class ModelSamples:
    """One variant and fold with everything that its export reads."""

    study: Study
    variant: str
    fold: int
    store: SliceStore
    parts: dict[str, list[str]]
    """Participants by split: train, val, test."""

    @classmethod
    def open(cls, study: Study, variant: str, fold: int, store: SliceStore) -> "ModelSamples":
        """Read folds.tsv and check that the grid is the store's; raises DataError or FileNotFoundError."""
        grid, size = study.preprocess.grid, store.size
        if (grid[1], grid[0]) != size:
            raise DataError(
                f"{store.folder}: slices of {size[1]} x {size[0]} px, but preprocess.grid is {list(grid)}; "
                "run the cache stage again"
            )
        return cls(study, variant, fold, store, read_folds(study.paths.folds, fold))

    @cached_property
    def left_out(self) -> dict[str, frozenset[str]]:
        """Key of LEFT_OUT to the samples that it leaves out, for each key that is true in the study."""
        asked = [key for key in LEFT_OUT if getattr(self.study.export, key)]
        return {key: frozenset(name for name, out in self._judged[key].items() if out) for key in asked}

    @property
    def about_left_out(self) -> str:
        """Whether flagged samples and outliers were left out, for readers of the export without the study."""
        texts = []
        for key, rule in LEFT_OUT.items():
            if key in self.left_out:
                texts.append(f"{len(self.left_out[key])} samples that {rule.words} were left out.")
            else:
                texts.append(
                    f"Samples that {rule.words} ({rule.shown}) are included; export.{key} leaves them out."
                )
        return " ".join(texts)

    @cached_property
    def about_samples(self) -> str:
        """Which samples are missing, for readers of the export without the study: flagged ones, and lesions."""
        stems = (self.study.paths.samples_stem(self.variant, self.fold, z) for z in range(self.store.n_bins))
        settings = enumerate(read_manifest(stem)[1] for stem in stems)
        bins = ", ".join(str(z_bin) for z_bin, own in settings if own and own.not_drawn)
        lesions = "fewer than two training subjects have a lesion there."
        return self.about_left_out + (f" No sample of class 1 in z-bins {bins}: {lesions}" if bins else "")

    @cached_property
    def _judged(self) -> dict[str, dict[str, bool]]:
        """Key of LEFT_OUT to every sample and whether it is left out, for each key that is true in the study."""
        found = {}
        for key, rule in LEFT_OUT.items():
            if not getattr(self.study.export, key):
                continue
            path = self._metrics / rule.table
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: not found, but export.{key} is true; run the metrics stage first"
                )
            found[key] = {}
            for row in read_table(path, ("id", rule.column)):
                found[key][row["id"]] = found[key].get(row["id"], False) or row[rule.column] == "1"
        return found

    @property
    def _metrics(self) -> Path:
        return self.study.paths.metrics(self.variant, self.fold)

    def real(self, split: str) -> Iterator[Case]:
        """The slices of one split's participants, in the store's order."""
        store = self.store
        for row in store.rows_of(self.parts[split]):
            participant, z = str(store.participant[row]), int(store.z[row])
            affine, space = self._volume(participant)
            yield Case(
                name=f"{participant}_z{z:03d}",
                image=np.asarray(store.images[row]),
                mask=np.asarray(store.masks[row]) > REAL_THRESHOLD,
                affine=slice_affine(affine, z),
                space=space,
                z_bin=int(store.z_bin[row]),
                label=int(store.label[row]),
                participant=participant,
            )

    def synthetic(self) -> Iterator[Case]:
        """The samples, z-bin by z-bin; only one z-bin is in memory.

        Raises FileNotFoundError or DataError with the file that is missing or does not fit.
        """
        seen: set[str] = set()
        for z_bin in range(self.store.n_bins):
            stem = self.study.paths.samples_stem(self.variant, self.fold, z_bin)
            images, masks, rows = _read_bin(stem, self.store.size)
            for image, mask, row in zip(images, masks, rows, strict=True):
                _check_row(row, stem, z_bin, self.fold, seen)
                for key, judged in self._judged.items():
                    if row["id"] not in judged:
                        raise DataError(
                            f"{self._metrics / LEFT_OUT[key].table}: no row for sample {row['id']!r}, but export.{key} "
                            "is true; run the metrics stage again"
                        )
                if any(row["id"] in samples for samples in self.left_out.values()):
                    continue
                yield Case(
                    name=f"synth-{row['id']}",
                    image=image,
                    mask=mask.astype(np.float32) > np.float32(self.study.export.tau),
                    affine=affine_at_height(self.study.preprocess.grid, self.store, z_bin),
                    space="aligned",
                    z_bin=z_bin,
                    label=int(row["class"]),
                    sample=row,
                )

    @cached_property
    def _volumes(self) -> dict[str, tuple[np.ndarray, str]]:
        return {}

    def _volume(self, participant: str) -> tuple[np.ndarray, str]:
        """Affine of the participant's own volume; without the volume, of the grid about the origin."""
        if participant not in self._volumes:
            path = self.study.paths.volume(participant, "image")
            grid = tuple(self.study.preprocess.grid)
            if path.is_file():
                affine, shape = read_affine(path)
                # Native slices are as many as the volume has.
                same = 2 if self.study.preprocess.native else 3
                if tuple(shape[:same]) != grid[:same]:
                    raise DataError(
                        f"{path}: shape {list(shape)}, but preprocess.grid is {list(grid)}; "
                        "run the preprocess stage again"
                    )
                self._volumes[participant] = affine, "scanner"
            else:
                print(
                    f"{path}: not found; slices of {participant} are placed about the origin", file=sys.stderr
                )
                self._volumes[participant] = (
                    canonical_affine(grid, self.store.spacing_mm, self.store.slice_mm),
                    "aligned",
                )
        return self._volumes[participant]


def _read_bin(stem: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    arrays = read_arrays(stem)
    rows, settings = read_manifest(stem)
    if settings:
        rows = [row | {"checkpoint_sha256": settings.checkpoint_sha256} for row in rows]
    expected = (len(rows), *size)
    for name in ("images", "masks"):
        shape = arrays[name].shape
        if shape != expected:
            raise DataError(
                f"{stem}.npz: {name}: expected {expected} (from the manifest and the slice store), found {shape}; "
                "run the stage generate again"
            )
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"{stem}.npz: {name} has NaN or infinite values; run the stage generate again")
    return arrays["images"], arrays["masks"], rows


def _check_row(row: dict[str, str], stem: Path, z_bin: int, fold: int, seen: set[str]) -> None:
    where = f"{stem}.tsv: sample {row['id']!r}"
    if not SAMPLE_NAME.fullmatch(row["id"]):
        raise DataError(f"{where} cannot be a file name; expected letters, digits and _ . - only")
    if row["id"] in seen:
        raise DataError(f"{where} is a duplicate, or in two z-bins; generate it again")
    seen.add(row["id"])
    if int(row["z_bin"]) != z_bin:
        raise DataError(f"{where}: expected z-bin {z_bin} of the file's name, found {row['z_bin']}")
    of_key = FOLD_OF_KEY.search(row["key"])
    if of_key and int(of_key[1]) != fold:
        # Its model was trained on test subjects of this fold.
        raise DataError(f"{where}: expected fold {fold} of its folder, found {of_key[1]} (key {row['key']})")


def unique_names(cases: Sequence[str]) -> None:
    """Raise DataError if two cases would have the same file name."""
    seen: set[str] = set()
    for name in cases:
        if name in seen:
            raise DataError(f"duplicate file name {name}; rename that participant or sample")
        seen.add(name)
