"""The slice store: every stage after preprocessing reads slices from here. NumPy and pydantic only.

A store is a folder with
`images.npy` float16 (N, H, W) in [-1, 1], `masks.npy` uint8 {0, 1} (N, H, W), both memory-mapped when read;
`slices.tsv` one row per slice: participant, z, z_bin, class, lesion_px, acquisition; also its height, where the
z-bins are not those of slice numbers (`slices.height`);
`store.json` shapes, spacing_mm (side of a pixel), slice_mm, height, z_range, n_bins, persons, pixel constants and the
sha256 of the other three. `persons` maps each participant to the first participant (in alphabetical order) of its
person, unless that is itself.
Rows of a slice run from anterior to posterior, columns from left to right.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from slimdiff.config.base import PositiveInt, Section, explain
from slimdiff.config.slices import Height
from slimdiff.data.zbins import bin_positions
from slimdiff.files import read_object, read_table, require_file, sha256

FILES = {"images": "images.npy", "masks": "masks.npy", "slices": "slices.tsv"}
COLUMNS = ("participant", "z", "z_bin", "class", "lesion_px", "acquisition")
FEWEST_LESION_SUBJECTS = 2
"""Training subjects (persons) with a lesion in a z-bin, below which its class-1 samples are copies or guesses."""


REMEDY = "restore it from a copy, or delete it and run the stage cache again"

# Not `Real` of a study, which takes text: nothing converts it here.
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Length = Annotated[_Number, Field(gt=0)]


class _Facts(Section):
    """What store.json of any version has; further keys are only shown in reports."""

    model_config = ConfigDict(extra="allow", strict=True)
    n_bins: PositiveInt
    spacing_mm: _Length
    slice_mm: _Length = 1.0
    height: Height = "slice"
    min_lesion_px: PositiveInt = 1
    z_range: list[_Number]
    bin_centres: list[_Number]
    brain_mm: dict[str, _Length] = Field(default_factory=dict)
    persons: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str]


@dataclass(frozen=True)
class SliceStore:
    """Images, masks and one row of facts per slice."""

    folder: Path
    images: np.ndarray
    """float16 (N, H, W) in [-1, 1]."""
    masks: np.ndarray
    """uint8 (N, H, W), {0, 1}."""
    participant: np.ndarray
    """str (N,)."""
    z: np.ndarray
    """int (N,), slice index in the participant's volume."""
    z_bin: np.ndarray
    """int (N,)."""
    label: np.ndarray
    """int (N,): class 0 = no lesion in the slice, 1 = lesion."""
    acquisition: np.ndarray
    """str (N,), n/a where unknown."""
    facts: dict
    """store.json."""

    @classmethod
    def open(cls, folder: Path) -> "SliceStore":
        """Open a store with memory-mapped arrays, once its files have the sha256 in store.json.

        Raises FileNotFoundError, or ValueError naming the file if one is damaged or they are inconsistent.
        """
        folder = Path(folder)
        facts = _checked(read_object(folder / "store.json", REMEDY), folder / "store.json")
        _check_hashes(folder, facts["sha256"])
        rows = read_table(folder / "slices.tsv", COLUMNS, ended=True)
        images, masks = (_mapped(folder / name) for name in ("images.npy", "masks.npy"))
        if not (len(rows) == len(images) == len(masks) and images.shape == masks.shape):
            raise ValueError(
                f"{folder}: expected equal numbers of rows, images and masks, found {len(rows)} rows, images "
                f"{images.shape} and masks {masks.shape}; run the cache stage again"
            )
        z, z_bin, label = (_whole(rows, column, folder / "slices.tsv") for column in ("z", "z_bin", "class"))
        participant, acquisition = (
            np.array([row[name] for row in rows]) for name in ("participant", "acquisition")
        )
        return cls(folder, images, masks, participant, z, z_bin, label, acquisition, facts)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def data_hash(self) -> str:
        """One hash for images, masks and table."""
        return "-".join(self.facts["sha256"][name][:16] for name in ("images", "masks", "slices"))

    @property
    def n_bins(self) -> int:
        return int(self.facts["n_bins"])

    @property
    def spacing_mm(self) -> float:
        return float(self.facts["spacing_mm"])

    @property
    def slice_mm(self) -> float:
        """Distance between slices; with native slices the median of the participants. Earlier stores lack it."""
        return float(self.facts.get("slice_mm", self.facts["spacing_mm"]))

    @property
    def height(self) -> Height:
        """How the height of a slice is measured: slice, mm or relative."""
        return self.facts.get("height", "slice")

    @property
    def bin_positions(self) -> list[float]:
        """Centre of each z-bin as a network takes it (`slimdiff.data.zbins.bin_positions`)."""
        return bin_positions(self.facts)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice, in px."""
        return self.images.shape[1], self.images.shape[2]

    @cached_property
    def person(self) -> np.ndarray:
        """str (N,): the person of each slice, named as its first scan. Statistics of independent subjects use it."""
        return np.array([self.person_of(name) for name in self.participant.tolist()], str)

    def person_of(self, participant: str) -> str:
        """The person of a participant, named as its first scan. Earlier stores have one person for each participant."""
        return self.facts.get("persons", {}).get(participant, participant)

    def rows_of(self, participants: list[str]) -> np.ndarray:
        """Indices (M,) of the slices of these participants, in the store's order."""
        return np.flatnonzero(np.isin(self.participant, participants))

    def lesion_subjects(self, participants: list[str]) -> np.ndarray:
        """Number of persons among these participants that have a lesion slice in each z-bin, (n_bins,)."""
        rows = self.rows_of(participants)
        rows = rows[self.label[rows] == 1]
        return np.array(
            [len(set(self.person[rows[self.z_bin[rows] == z_bin]])) for z_bin in range(self.n_bins)]
        )

    def few_lesions(self, participants: list[str]) -> str:
        """z-bins in which fewer than FEWEST_LESION_SUBJECTS of their persons have a lesion, as text; often ""."""
        few = few_lesion_subjects(self.lesion_subjects(participants).tolist())
        return ", ".join(f"{z_bin} ({count})" for z_bin, count in few.items())


def few_lesion_subjects(lesion_subjects: Sequence[int]) -> dict[int, int]:
    """z-bins in which too few training subjects have a lesion, with their number."""
    return {z_bin: count for z_bin, count in enumerate(lesion_subjects) if count < FEWEST_LESION_SUBJECTS}


def _checked(facts: dict, path: Path) -> dict:
    """The facts; raises ValueError with the file and each key that is missing or has no possible value."""
    try:
        known = _Facts.model_validate(facts)
    except ValidationError as error:
        lines = explain(error, _Facts).split("\n")
        raise ValueError("\n".join(f"{path}: {line}; run the cache stage again" for line in lines)) from None
    wanted = {"bin_centres": known.n_bins, "z_range": 2}
    for key, count in wanted.items():
        if len(facts[key]) != count:
            raise ValueError(
                f"{path}: {key}: expected {count} numbers, found {len(facts[key])}; run the cache stage again"
            )
    if missing := FILES.keys() - known.sha256.keys():
        raise ValueError(f"{path}: sha256: no {', '.join(sorted(missing))}; run the cache stage again")
    return facts


def _whole(rows: Sequence[dict[str, str]], column: str, path: Path) -> np.ndarray:
    """A column of whole numbers, int (N,); raises ValueError with file, row and what was found."""
    for number, row in enumerate(rows, start=1):
        if not re.fullmatch(r"[0-9]{1,9}", row[column]):
            raise ValueError(
                f"{path}, row {number}: {column}: expected a whole number, found {row[column][:60]!r}; run the cache "
                "stage again"
            )
    return np.array([int(row[column]) for row in rows])


def _check_hashes(folder: Path, hashes: dict[str, str]) -> None:
    for name, file in FILES.items():
        require_file(folder / file, "not found; run the cache stage first")
        found = sha256(folder / file)
        if found != hashes[name]:
            raise ValueError(
                f"{folder / file}: expected sha256 {hashes[name][:12]}… (store.json), found {found[:12]}…: it was cut "
                f"off, damaged or edited; {REMEDY}"
            )


def _mapped(path: Path) -> np.ndarray:
    require_file(path, "not found; run the cache stage first")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not readable as an array ({error}); {REMEDY}") from None
