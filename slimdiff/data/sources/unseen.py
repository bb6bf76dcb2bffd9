"""What lies in the folder of a BIDS dataset, but not where BIDS puts it: it must not be left out silently."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from slimdiff.data.participants import DataError
from slimdiff.data.sources.bids_names import TISSUE, BidsFile
from slimdiff.data.sources.reading import ENDINGS, listed, stem_of

VOLUMES = (
    *ENDINGS,
    *(".nrrd", ".nhdr", ".mgz", ".mgh", ".mha", ".mhd", ".img", ".hdr", ".mif", ".mif.gz", ".gipl"),
)
"""Endings of volumes of any program."""
OTHER_TYPES = frozenset(
    ("func", "dwi", "fmap", "perf", "meg", "eeg", "ieeg", "pet", "beh", "micr", "motion", "nirs", "mrs")
)
"""BIDS folders of other data than anatomy, whose names may hold the same words."""
NO_SUBJECTS = frozenset(("derivatives", "sourcedata", "rawdata", "code", "phenotype", "stimuli"))
LESION_WORD = re.compile(r"(?<![a-z])(roi|lesion[a-z]*|tumou?r|fcd|wmh)(?![a-z])")
MASK_WORD = re.compile(r"(?<![a-z])(mask|seg|label|segmentation)s?$")


def unseen_files(folder: Path, seen: Iterable[Path] = ()) -> list[BidsFile]:
    """Volumes of any format in a subject's folder, at any depth, less those in `seen`; hidden files are left out."""
    known, found = set(seen), []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in OTHER_TYPES and not name.startswith("."))
        for name in sorted(names):
            stem = stem_of(name, VOLUMES)
            if stem is not None and Path(place, name) not in known:
                found.append(BidsFile(Path(place, name), stem, None))
    return found


def loose_masks(root: Path) -> dict[str, list[BidsFile]]:
    """subject: files named as lesion masks in folders beside the subjects' ones that have no `anat` folders."""
    found: dict[str, list[BidsFile]] = {}
    for pattern in ("[!.]*/sub-*", "[!.]*/sub-*/*", "derivatives/*/sub-*", "derivatives/*/sub-*/*"):
        for path in sorted(root.glob(pattern)):
            place = path.relative_to(root).parts
            stem = stem_of(path.name, VOLUMES)
            if place[0].startswith("sub-") or stem is None or not path.is_file():
                continue
            subject = next(part for part in place if part.startswith("sub-")).partition("_")[0]
            subject = stem_of(subject, VOLUMES) or subject
            file = BidsFile(path, stem, None)
            if says_lesion(file, root):
                found.setdefault(subject, []).append(file)
    return found


def says_lesion(file: BidsFile, root: Path) -> bool:
    """Whether the name of a file, or of a folder between it and `root`, says lesion, or mask without saying of what."""
    *folders, _ = file.path.relative_to(root).parts
    own = re.sub(r"^sub-[^_]*_?", "", file.stem.casefold())
    # The label of a subject may contain any word.
    words = [folder.casefold() for folder in folders if not folder.casefold().startswith(("sub-", "ses-"))]
    if any(LESION_WORD.search(word) for word in (*words, own)):
        return not (TISSUE.search(own) and not LESION_WORD.search(own))
    unspecified = not re.search(r"(label|desc)-", own) and not TISSUE.search(own)
    return bool(MASK_WORD.search(own)) and unspecified


def same_subject(file: BidsFile, subject: str) -> bool:
    """Whether a file is named after the subject, in any case."""
    return file.stem.casefold().startswith(f"{subject.casefold()}_")


def refuse_other_folders(root: Path) -> None:
    """Raise DataError for folders of subjects without the prefix sub- in small letters, which would be left out."""
    others = []
    for path in root.iterdir():
        name = path.name
        if name.startswith(("sub-", ".")) or name.casefold() in NO_SUBJECTS or not path.is_dir():
            continue
        if name.casefold().startswith("sub-") or _has_anat(path):
            others.append(name)
    if others:
        raise DataError(
            f"{root}: expected folders sub-* of subjects, found also {listed(sorted(others), 20)}, which would be left "
            "out; rename them (sub- in small letters), or move them out of this folder"
        )


def _has_anat(folder: Path) -> bool:
    inside = [path for path in folder.iterdir() if path.is_dir()] if os.access(folder, os.R_OK) else []
    sessions = [path for path in inside if path.name.casefold().startswith("ses-")]
    return any(
        path.name.casefold() == "anat"
        for path in (*inside, *(below for session in sessions for below in session.iterdir()))
    )


def refuse_other_tables(table: Path) -> None:
    """Raise DataError if participants.tsv is missing, but there is a table of another format or spelling."""
    others = [
        path.name
        for path in table.parent.glob("[Pp][Aa][Rr][Tt][Ii][Cc][Ii][Pp][Aa][Nn][Tt]*")
        if path.is_file() and path.suffix.casefold() not in (".json", ".py", ".md")
    ]
    if others:
        raise DataError(
            f"{table.parent}: expected participants.tsv (separated by tabs, UTF-8), found {listed(sorted(others))}, "
            "whose groups, sites and splits would not be read; save it as participants.tsv, or move it out of this "
            "folder"
        )
