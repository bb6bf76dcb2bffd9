"""What a folder holds: the settings of `data` with which most of its patients are found, for `slimdiff init`."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.sources import discover
from slimdiff.data.sources.bids_names import FOLDERS, LESION_WORD, says_brain
from slimdiff.data.sources.lost_masks import DERIVATIVES
from slimdiff.data.sources.reading import stem_of

IMAGES = ("FLAIR", "T2w", "T1w", "flair", "T2", "T1")
"""Suffixes of images, the first that a dataset has counts."""
EXPECTED = (
    "a BIDS dataset (sub-*/anat), an nnU-Net raw dataset (imagesTr, labelsTr), cases named as in BraTS "
    "(case_flair, case_seg), or a table (.tsv or .csv) with the columns participant_id, image and mask"
)
MASK_NAMES = (
    "Lesion masks are found by mask, seg, dseg, roi, label or lesion in their names; others: write the study with "
    "data.mask_suffix (docs/guide/own_data.md)"
)
MASK_END = re.compile(r"(^|_)(mask|seg|dseg|roi|label|lesion[a-z]*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Survey:
    """Settings that read a folder, and what they find."""

    data: dict
    """Keys of the section `data`."""
    participants: list[Participant]
    description: dict
    """dataset_description.json of a BIDS dataset; empty elsewhere."""

    @property
    def included(self) -> list[Participant]:
        return [row for row in self.participants if row.included]

    @property
    def patients(self) -> int:
        return sum(row.is_patient for row in self.included)


def survey(place: Path) -> Survey:
    """Look at a folder, or at a table of paths; only names are read.

    Raises FileNotFoundError, or DataError with what was expected and why each way to read it failed.
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(f"{place}: not found; expected {EXPECTED}")
    best: Survey | None = None
    problems: list[str] = []
    for data in _candidates(place):
        try:
            found = Survey(data, discover(DataConfig.model_validate(data), Path()), _description(place))
        except (DataError, OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if best is None or found.patients > best.patients:
            best = found
    if best is None or not best.patients:
        why = (
            problems[0]
            if problems
            else "no participant has a lesion mask"
            if best
            else "none of these is there"
        )
        raise DataError(f"{place}: expected {EXPECTED}; {why}. {MASK_NAMES}")
    return best


def _candidates(place: Path) -> Iterator[dict]:
    """Ways to read a place, the likeliest first."""
    root = str(place)
    if place.is_file():
        yield {"source": "table", "table": root}
        return
    if (place / "imagesTr").is_dir():
        yield {"source": "nnunet", "root": root}
        yield {"source": "nnunet", "root": root, "empty_mask": "control"}
    if any(place.glob("sub-*/")):
        yield from _bids(place)
    names = {path.name.casefold() for path in (*place.glob("*.nii*"), *place.glob("*/*.nii*"))}
    if any(re.search(r"[_-](flair|t2f)\.nii", name) for name in names):
        yield {"source": "brats", "root": root}


def _bids(root: Path) -> Iterator[dict]:
    stems = _stems(root)
    ends = Counter(stem.rpartition("_")[2] for stem in stems)
    image = next((suffix for suffix in IMAGES if ends[suffix]), None)
    if image is None:
        return
    base = {"source": "bids", "root": str(root)}
    if image != "FLAIR":
        base["image_suffix"] = image
    sessions = _sessions(root, image)
    # A subject with several sessions: the one that most subjects have.
    if sessions:
        base["entities"] = {"ses": sessions.most_common(1)[0][0]}
    trees = [path for path in (root / DERIVATIVES, *sorted((root / DERIVATIVES).glob("*"))) if path.is_dir()]
    for tree in (root, *trees):
        where = {} if tree == root else {"mask_root": str(tree)}
        for suffix in _mask_suffixes(stems if tree == root else _stems(tree), image):
            yield {**base, **where, "mask_suffix": suffix}
    # Where no name is like that of a mask, the message says which were looked for.
    yield base


def _stems(tree: Path) -> list[str]:
    """Names of the volumes below sub-*/anat, without their endings."""
    paths = [path for folder in FOLDERS for path in sorted(tree.glob(f"{folder}/anat/*"))]
    return [stem for path in paths if (stem := stem_of(path.name))]


def _sessions(root: Path, image: str) -> Counter:
    """Sessions with an image, if a subject has several."""
    found: dict[str, set[str]] = {}
    for path in root.glob(f"sub-*/ses-*/anat/*_{image}.nii*"):
        found.setdefault(path.parts[-4], set()).add(path.parts[-3].removeprefix("ses-"))
    if all(len(own) < 2 for own in found.values()):
        return Counter()
    return Counter(session for own in found.values() for session in sorted(own))


def _mask_suffixes(stems: list[str], image: str) -> list[str]:
    """Suffixes that may be those of lesion masks, the most frequent first: `FLAIR_roi`, `mask`, `lesion`."""
    found: Counter = Counter()
    for stem in stems:
        parts = [part for part in stem.split("_") if "-" not in part]
        suffix = "_".join(parts)
        named = bool(MASK_END.search(suffix) or LESION_WORD.search(stem.casefold().partition("_")[2]))
        if suffix and suffix != image and named and not says_brain(stem):
            found[suffix] += 1
    return [suffix for suffix, _ in found.most_common()]


def _description(place: Path) -> dict:
    path = place / "dataset_description.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
