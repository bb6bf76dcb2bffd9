"""Files of a BIDS tree, sorted into images, lesion masks and brain masks by their names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from slimdiff.data.sources.reading import stem_of

FOLDERS = ("sub-*", "sub-*/ses-*")
OTHER = "other"
LESION = re.compile(r"[_-](roi|lesion[a-z]*|tumou?r|fcd|wmh)([_-]|$)")
TISSUE = re.compile(r"brain|head|skull|_([gw]m|csf|ribbon)_")


@dataclass(frozen=True)
class BidsFile:
    """A file of a subject's `anat` folder."""

    path: Path
    stem: str
    """Its name without the ending."""
    session: str | None
    """The label of ses-*, of its folder or else of its name."""

    @property
    def entities(self) -> dict[str, str]:
        return entities_of(self.stem)

    def has(self, entities: dict[str, str]) -> bool:
        """Whether its name has all of these entities."""
        return entities.items() <= self.entities.items()

    def fits_session_of(self, image: "BidsFile") -> bool:
        """Whether it can belong to `image`; a file without a session belongs to the subject, and so to all."""
        return None in (self.session, image.session) or self.session == image.session


def entities_of(stem: str) -> dict[str, str]:
    """The key-value pairs of a BIDS name."""
    return dict(part.split("-", 1) for part in stem.split("_") if "-" in part)


def tree_of(root: Path) -> list[PurePosixPath]:
    """Subjects' folders and the NIfTI files of their `anat` folders, relative to root.

    `.bidsignore` has no say: it hides lesion masks from validators only.
    """
    subjects = [path for path in root.glob("sub-*") if path.is_dir()]
    files = [
        path
        for folder in FOLDERS
        for path in root.glob(f"{folder}/anat/*")
        if stem_of(path.name) and not path.is_dir()
    ]
    return sorted(PurePosixPath(path.relative_to(root).as_posix()) for path in (*subjects, *files))


def subjects_of(paths: Iterable[PurePosixPath]) -> set[str]:
    """The subjects that have a folder, or a file in it."""
    return {path.parts[0] for path in paths if path.parts[0].startswith("sub-")}


def sort_files(
    paths: Iterable[PurePosixPath], root: Path, suffixes: dict[str, str | None]
) -> dict[str, dict[str, list[BidsFile]]]:
    """kind: subject: files, in order of their paths.

    paths: relative to root. suffixes: kind, and the suffix of its files, or None. Where several suffixes fit a name,
    the longest one counts: with `mask` for lesions and `desc-brain_mask` for brains, a brain mask is no lesion.
    Files that fit none are of the kind OTHER.
    """
    wanted = {kind: suffix for kind, suffix in suffixes.items() if suffix}
    found: dict[str, dict[str, list[BidsFile]]] = {kind: {} for kind in (*suffixes, OTHER)}
    for path in sorted(paths):
        file = _anat_file(path, root)
        if file is None:
            continue
        # "FLAIR" must not take "..._desc-xFLAIR": the suffix stands after an underscore.
        kinds = [kind for kind, suffix in wanted.items() if file.stem.endswith(f"_{suffix}")]
        kind = max(kinds, key=lambda kind: len(wanted[kind]), default=OTHER)
        found[kind].setdefault(path.parts[0], []).append(file)
    return found


def nearly(files: Iterable[BidsFile], suffix: str) -> BidsFile | None:
    """The first file with this suffix in other letters: upper for lower case, a hyphen for an underscore."""
    wanted = _plain(f"_{suffix}")
    return next((file for file in files if _plain(file.stem).endswith(wanted)), None)


def mask_by_its_name(files: Iterable[BidsFile]) -> BidsFile | None:
    """The first file whose name says that it is a lesion's mask, or a mask and not of what."""
    return next((file for file in files if _is_mask(file)), None)


def _is_mask(file: BidsFile) -> bool:
    # The subject may be called anything.
    name = "_" + file.stem.partition("_")[2].casefold()
    if LESION.search(name):
        return True
    unspecified = not {"label", "desc"} & file.entities.keys() and not TISSUE.search(name)
    return name.endswith(("_mask", "_seg", "_label")) and unspecified


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


def _anat_file(path: PurePosixPath, root: Path) -> BidsFile | None:
    """A NIfTI file of a subject's own, in its `anat` folder or in that of a session."""
    match path.parts:
        case (subject, "anat", name):
            session = None
        case (subject, folder, "anat", name) if folder.startswith("ses-"):
            session = folder.removeprefix("ses-")
        case _:
            return None
    stem = stem_of(name)
    if stem is None or not subject.startswith("sub-") or not stem.startswith(f"{subject}_"):
        return None
    return BidsFile(root / path, stem, session or entities_of(stem).get("ses"))
