"""Files of a BIDS dataset by their names: suffixes, entities, sessions, and names that look like lesion masks."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from slimdiff.data.participants import DataError
from slimdiff.data.sources.reading import stem_of

FOLDERS = ("sub-*", "sub-*/ses-*")
REPEAT = "run"
"""The entity that numbers images of equal acquisition parameters (BIDS): a run stands for any other."""
OTHER = "other"
LESION = re.compile(r"[_-](roi|lesion[a-z]*|tumou?r|fcd|wmh)([_-]|$)")
TISSUE = re.compile(r"brain|head|skull|(?<![a-z])([gw]m|csf|ribbon)(?![a-z])")
"""Words of a mask of the brain, the head or a tissue."""
LESION_WORD = re.compile(r"roi|lesion|tumou?r|fcd|wmh|infarct|stroke|metasta|glioma|plaque|o?edema")
"""Words with which such a name is one of a lesion after all (brain_lesions, brain_tumour)."""
TISSUE_MASK = re.compile(rf"({TISSUE.pattern})([_-]?(mask|d?seg|label))?$")


@dataclass(frozen=True)
class BidsFile:
    """A file of a subject's `anat` folder."""

    path: Path
    stem: str
    """File name without the ending."""
    session: str | None
    """Label of ses-*, from the folder or, without one, from the file name."""

    @property
    def entities(self) -> dict[str, str]:
        """The entities of the file name, and the session of the folder."""
        return ({"ses": self.session} if self.session else {}) | entities_of(self.stem)

    def fits_session_of(self, image: "BidsFile") -> bool:
        """Whether it can belong to `image`; a file without a session belongs to all sessions of the subject."""
        return None in (self.session, image.session) or same_label(self.session, image.session)


def entities_of(stem: str) -> dict[str, str]:
    """The key-value pairs of a BIDS name."""
    return dict(part.split("-", 1) for part in stem.split("_") if "-" in part)


def same_label(one: str, other: str) -> bool:
    """Whether two labels are equal; of a number the zeros before it do not count: 1 is 01."""
    return one == other or (one.isdecimal() and other.isdecimal() and int(one) == int(other))


def with_entities(files: Iterable[BidsFile], entities: dict[str, str]) -> list[BidsFile]:
    """Choose among the files of one subject by entities, in order.

    A file with another value of an entity is not chosen: it is another session or protocol than the one asked for. Only
    an image that has no other runs beside it is chosen whatever its run.
    A file that lacks an entity is chosen unless another file has it, and all else that the first one has.
    """
    kept = _fitting(files, {key: value for key, value in entities.items() if key != REPEAT})
    if len(kept) > 1:
        kept = _fitting(kept, entities)
    has = {file: {key for key in entities if key in file.entities} for file in kept}
    return [file for file, own in has.items() if not any(own < others for others in has.values())]


def _fitting(files: Iterable[BidsFile], entities: dict[str, str]) -> list[BidsFile]:
    """The files that have no other value of an entity."""
    return [
        file
        for file in files
        if all(same_label(file.entities.get(key, value), value) for key, value in entities.items())
    ]


def tree_of(root: Path) -> list[PurePosixPath]:
    """Subjects' folders and the NIfTI files of their `anat` folders, relative to root.

    `.bidsignore` is not applied: its only use is to hide lesion masks from validators.
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
    """The subjects with a folder, or with a file in it."""
    return {path.parts[0] for path in paths if path.parts[0].startswith("sub-")}


def sort_files(
    paths: Iterable[PurePosixPath], root: Path, suffixes: dict[str, str | None]
) -> dict[str, dict[str, list[BidsFile]]]:
    """kind: subject: files, in order of their paths.

    paths: relative to root. suffixes: kind: suffix of its files, or None. If several suffixes match a name, the longest
    counts: with `mask` for lesions and `desc-brain_mask` for brains, a brain mask is not a lesion mask. Files without a
    matching suffix are of the kind OTHER, and so are masks whose names say brain or another tissue.
    """
    wanted = {kind: suffix for kind, suffix in suffixes.items() if suffix}
    found: dict[str, dict[str, list[BidsFile]]] = {kind: {} for kind in (*suffixes, OTHER)}
    for path in sorted(paths):
        file = _anat_file(path, root)
        if file is None:
            continue
        # "FLAIR" must not match "..._desc-xFLAIR": a suffix follows an underscore.
        kinds = [
            kind
            for kind, suffix in wanted.items()
            if file.stem.endswith(f"_{suffix}") and not (kind == "mask" and says_brain(file.stem))
        ]
        kind = max(kinds, key=lambda kind: len(wanted[kind]), default=OTHER)
        found[kind].setdefault(path.parts[0], []).append(file)
    return found


def says_brain(stem: str) -> bool:
    """Whether the name of a mask says brain, head or a tissue, and no lesion: desc-brain_mask, brainmask.

    The subject's label and entities other than `label` and `desc` are not searched: they may contain any word.
    """
    parts = stem.casefold().split("_")[1:]
    said = "_".join(part for part in parts if "-" not in part or part.startswith(("label-", "desc-")))
    return bool(TISSUE.search(said)) and not LESION_WORD.search(said)


def refuse_brain_suffix(mask_suffix: str) -> None:
    """Raise DataError if `data.mask_suffix` names the brain: such a file is never a lesion mask."""
    if says_brain(f"_{mask_suffix}"):
        raise DataError(
            f"data.mask_suffix: expected the suffix of lesion masks, found {mask_suffix}, which names the brain or a "
            "tissue; for brain masks set data.brain_suffix, or rename the lesion masks"
        )


def ends_with_brain(stem: str) -> bool:
    """Whether a name of any form ends as a brain mask's (x_brain, x-brain_mask, xbrainmask) and says no lesion."""
    return bool(TISSUE_MASK.search(stem.casefold())) and not LESION_WORD.search(stem.casefold())


def nearly(files: Iterable[BidsFile], suffix: str) -> BidsFile | None:
    """The first file with nearly this suffix: another case, or a hyphen instead of an underscore."""
    wanted = _plain(f"_{suffix}")
    return next((file for file in files if _plain(file.stem).endswith(wanted)), None)


def mask_by_its_name(files: Iterable[BidsFile]) -> BidsFile | None:
    """The first file named as a lesion mask, or as a mask without saying of what."""
    return next((file for file in files if _is_mask(file)), None)


def _is_mask(file: BidsFile) -> bool:
    # The subject's label is not searched, because it may contain any word.
    name = "_" + file.stem.partition("_")[2].casefold()
    if LESION.search(name):
        return True
    unspecified = not {"label", "desc"} & file.entities.keys() and not says_brain(file.stem)
    return name.endswith(("_mask", "_seg", "_label")) and unspecified


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


def _anat_file(path: PurePosixPath, root: Path) -> BidsFile | None:
    """A subject's NIfTI file in its `anat` folder or in that of a session; None for any other file."""
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
