"""A BIDS dataset: sub-*/[ses-*/]anat/sub-*_{suffix}.nii[.gz], on disk or to be fetched."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Flag, Participant, check_name, first_of
from slimdiff.data.sources.reading import (
    further_of,
    is_there,
    json_object,
    listed,
    stem_of,
    table_lines,
    two_splits,
)
from slimdiff.files import MISSING

FOLDERS = ("sub-*", "sub-*/ses-*")
OTHER = "other"
LESION = re.compile(r"[_-](roi|lesion[a-z]*|tumou?r|fcd|wmh)([_-]|$)")
TISSUE = re.compile(r"brain|head|skull|_([gw]m|csf|ribbon)_")


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
        return entities_of(self.stem)

    def has(self, entities: dict[str, str]) -> bool:
        """Whether the file name has all of these entities."""
        return entities.items() <= self.entities.items()

    def fits_session_of(self, image: "BidsFile") -> bool:
        """Whether it can belong to `image`; a file without a session belongs to all sessions of the subject."""
        return None in (self.session, image.session) or self.session == image.session


def entities_of(stem: str) -> dict[str, str]:
    """The key-value pairs of a BIDS name."""
    return dict(part.split("-", 1) for part in stem.split("_") if "-" in part)


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
    matching suffix are of the kind OTHER.
    """
    wanted = {kind: suffix for kind, suffix in suffixes.items() if suffix}
    found: dict[str, dict[str, list[BidsFile]]] = {kind: {} for kind in (*suffixes, OTHER)}
    for path in sorted(paths):
        file = _anat_file(path, root)
        if file is None:
            continue
        # "FLAIR" must not match "..._desc-xFLAIR": a suffix follows an underscore.
        kinds = [kind for kind, suffix in wanted.items() if file.stem.endswith(f"_{suffix}")]
        kind = max(kinds, key=lambda kind: len(wanted[kind]), default=OTHER)
        found[kind].setdefault(path.parts[0], []).append(file)
    return found


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
    unspecified = not {"label", "desc"} & file.entities.keys() and not TISSUE.search(name)
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


def bids_participants(config: DataConfig) -> list[Participant]:
    """Participants of the BIDS dataset in the folder `data.root`."""
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"data.root: expected the folder of a BIDS dataset, found no folder {root}")
    return bids_participants_of(tree_of(root), root, config)


def bids_participants_of(
    paths: Iterable[PurePosixPath],
    root: Path,
    config: DataConfig,
    fetched_groups: tuple[str, str] | None = None,
) -> list[Participant]:
    """Participants of a BIDS dataset with these files.

    Group, site, split and lobe come from participants.tsv if it has them; the acquisition comes from the image's `acq-`
    entity.

    Args:
        paths: files relative to root, from the file system or a manifest.
        fetched_groups: for a dataset to be fetched, its groups with and without a mask, used until its participants.tsv
            exists; all its subjects have a path. None: patient and control; subjects in participants.tsv without a
            folder are listed too.

    Raises:
        DataError: with the file, folder or key, what was expected and what was found.
    """
    image_suffix, mask_suffix = suffixes_of(config)
    paths = list(paths)
    kinds = {"image": image_suffix, "mask": mask_suffix, "brain": config.brain_suffix}
    files = sort_files(paths, root, kinds)
    subjects = subjects_of(paths)
    # The folder of masks may belong to a larger cohort.
    of_root = set(subjects)
    if config.mask_root:
        elsewhere = sort_files(_mask_tree(config, root), Path(config.mask_root), {**kinds, "image": None})
        files["mask"] = elsewhere["mask"]
        files["brain"] = elsewhere["brain"] | files["brain"]
        subjects |= elsewhere["mask"].keys()
        for name, others in elsewhere[OTHER].items():
            files[OTHER].setdefault(name, []).extend(others)
    described, flags = _described(root / "participants.tsv", subjects)
    if fetched_groups is None:
        subjects |= described.keys()
    rows = []
    for name in sorted(subjects):
        check_name(name, str(root / "participants.tsv" if name in described else root))
        line = described.get(name, {})
        images, masks, brains = (files[kind].get(name, []) for kind in kinds)
        chosen = [image for image in images if image.has(config.entities)]
        if not chosen:
            group = fetched_groups[0 if masks else 1] if fetched_groups else MISSING
            row = _without_image(name, line, group, images, root, config)
            if not images and name in of_root:
                near = nearly(
                    (file for file in files[OTHER].get(name, []) if root in file.path.parents), image_suffix
                )
                row = _with_lost_image(row, masks, near)
            rows.append(row)
            continue
        faults = [flags[name]] if name in flags else []
        if len(chosen) > 1:
            reason = (
                f"{root / name}: {len(chosen)} images match _{image_suffix}: {_names(chosen)}; select one with "
                "data.entities, keep one file, or use a table"
            )
            faults.append(Flag("several_images", reason))
        image = chosen[0]
        mask = _of_image(masks, image, mask_suffix, "masks", faults)
        with_mask, without_mask = fetched_groups or ("patient", "control")
        group = first_of(line, "group", "diagnosis")
        stray = None if masks or group else _stray_mask(files[OTHER].get(name, []), mask_suffix)
        if stray:
            reason = (
                f"{stray.path} looks like a lesion mask, but the expected suffix is _{mask_suffix}, so {name} would be "
                "a control; rename the file, set data.mask_suffix, or give the group in participants.tsv"
            )
            faults.append(Flag("no_mask", reason))
        rows.append(
            Participant(
                participant_id=name,
                group=group or (with_mask if masks else without_mask),
                image=image.path,
                mask=mask,
                acquisition=image.entities.get("acq", MISSING),
                site=first_of(line, "site") or MISSING,
                split=first_of(line, "split") or MISSING,
                lobe=first_of(line, "lobe") or MISSING,
                brain_mask=_of_image(brains, image, config.brain_suffix, "brain masks", faults),
                further=further_of(line),
                flags=tuple(faults),
            )
        )
    if not any(row.included and not any(flag.name == "missing_file" for flag in row.flags) for row in rows):
        only = f" with {_as_written(config.entities)}" if config.entities else ""
        keys = "data.image_suffix and data.entities" if config.entities else "data.image_suffix"
        raise DataError(
            f"{root}: expected images sub-*/anat/sub-*_{image_suffix}.nii.gz{only}, found none; see {keys}"
        )
    return rows


def _without_image(
    name: str, line: dict[str, str], group: str, others: list[BidsFile], root: Path, config: DataConfig
) -> Participant:
    """An excluded participant; it stays in the table with the reason (docs/method.md, F8)."""
    suffix, _ = suffixes_of(config)
    reason = f"no _{suffix} image"
    if others:
        reason += f" with {_as_written(config.entities)} (data.entities), only {_names(others)}"
    return Participant(
        participant_id=name,
        group=first_of(line, "group", "diagnosis") or group,
        image=others[0].path if others else root / name / "anat" / f"{name}_{suffix}.nii.gz",
        mask=None,
        excluded=reason,
        further=further_of(line),
    )


def _with_lost_image(row: Participant, masks: list[BidsFile], near: BidsFile | None) -> Participant:
    """Flag a lost image: the subject has a lesion mask, or a file with nearly the expected name."""
    if near is not None:
        reason = f"{row.image} not found, but {near.path} exists; rename it, or set data.image_suffix"
    elif masks:
        reason = f"{row.image} not found, but its mask {masks[0].path} exists; add the image"
    else:
        return row
    mask = masks[0].path if masks else None
    # It needs a group, so that `data.groups` does not exclude it.
    group = ("patient" if masks else "control") if row.group == MISSING else row.group
    return replace(row, mask=mask, group=group, excluded=MISSING, flags=(Flag("missing_file", reason),))


def _stray_mask(others: list[BidsFile], suffix: str) -> BidsFile | None:
    return nearly(others, suffix) or mask_by_its_name(others)


def suffixes_of(config: DataConfig) -> tuple[str, str]:
    """Suffixes of images and of lesion masks; raises DataError if two kinds of files would have the same names."""
    image, mask = config.image_suffix or "FLAIR", config.mask_suffix or "FLAIR_roi"
    if image == mask and not config.mask_root:
        raise DataError(
            f"data.mask_suffix: expected another suffix than data.image_suffix, found {mask} for both"
        )
    if config.brain_suffix in (image, mask):
        raise DataError(
            f"data.brain_suffix: expected another suffix than those of images and lesion masks, found "
            f"{config.brain_suffix}"
        )
    return image, mask


def _mask_tree(config: DataConfig, root: Path) -> list[PurePosixPath]:
    folder = Path(config.mask_root)
    if not folder.is_dir():
        meant = f" (did you mean {root / folder}?)" if (root / folder).is_dir() else ""
        raise DataError(
            f"data.mask_root: expected a folder with a sub-*/ tree, found no folder {folder}{meant}"
        )
    return tree_of(folder)


def _described(table: Path, subjects: set[str]) -> tuple[dict[str, dict[str, str]], dict[str, Flag]]:
    """The first row of each participant_id in participants.tsv, and flags of those with several splits."""
    if not is_there(table):
        return {}, {}
    lines = []
    for line in table_lines(table, ["participant_id"]):
        name = line["participant_id"].strip()
        # Tables often omit the prefix "sub-".
        lines.append((f"sub-{name}" if name not in subjects and f"sub-{name}" in subjects else name, line))
    if lines and subjects and not any(name in subjects for name, _ in lines):
        raise DataError(
            f"{table}: expected the names of folders ({listed(sorted(subjects))}) as participant_id, found "
            f"{listed(name for name, _ in lines)}"
        )
    flags = two_splits(lines, table)
    # The first row of a participant counts; duplicates have a flag.
    return dict(reversed(lines)), flags


def _of_image(
    files: list[BidsFile], image: BidsFile, suffix: str | None, kind: str, faults: list[Flag]
) -> Path | None:
    """The mask of an image: from its session if both have one, otherwise from its subject."""
    fitting = [file for file in files if file.fits_session_of(image)]
    if len(fitting) > 1:
        folder = _subject_folder(fitting[0].path)
        reason = (
            f"{folder}: {len(fitting)} {kind} match _{suffix}: {_names(fitting)}; keep one or use a table"
        )
        faults.append(Flag("several_masks", reason))
    if files and not fitting and kind == "masks":
        # A subject with a lesion in another session is not a control in this one.
        reason = (
            f"{_subject_folder(files[0].path)}: expected a mask of the image's session ses-{image.session}, found only "
            f"{_names(files)}; select the session with data.entities, or use a table"
        )
        faults.append(Flag("no_mask", reason))
    return fitting[0].path if fitting else None


def _subject_folder(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.name.startswith("sub-"))


def _names(files: list[BidsFile]) -> str:
    return listed(file.path.name for file in files)


def _as_written(entities: dict[str, str]) -> str:
    return ", ".join(f"{key}-{value}" for key, value in entities.items())


def without_thick_slices(participant: Participant, known: str | None = None) -> Participant:
    """Exclude an image that is a 2-D acquisition: its slices are too thick to be resampled.

    known: the image's `MRAcquisitionType` from a manifest; None: read it from the sidecar. The manifest's value is the
    same before and after the sidecar is fetched; the sidecar adds the slice thickness.
    """
    if not participant.included:
        return participant
    facts = _sidecar(participant.image)
    kind = known if known is not None else (facts or {}).get("MRAcquisitionType")
    if kind != "2D":
        return participant
    thickness = f", slice thickness {facts.get('SliceThickness', 'unknown')} mm" if facts is not None else ""
    return participant.without(f"2-D acquisition (MRAcquisitionType 2D{thickness})")


def _sidecar(image: Path) -> dict | None:
    path = image.with_name(f"{stem_of(image.name) or image.name}.json")
    return json_object(path) if is_there(path) else None


def with_lost_masks(rows: list[Participant], config: DataConfig) -> list[Participant]:
    """Flag participants without a mask in a group in which others have one.

    Otherwise a patient with a lost mask would count as a control, and its lesion slices as lesion-free.
    """
    _, mask_suffix = suffixes_of(config)
    with_mask = {row.group for row in rows if row.included and row.is_patient}
    checked = []
    for row in rows:
        known = row.is_patient or any(flag.name == "no_mask" for flag in row.flags)
        if row.included and row.group in with_mask and not known:
            folder = Path(config.mask_root) / row.participant_id if config.mask_root else row.image.parent
            reason = (
                f"{folder}: no mask matches _{mask_suffix}, but others of group {row.group} have one; exclude "
                f"{row.participant_id} by name, or use a table where its mask is n/a"
            )
            row = replace(row, flags=(*row.flags, Flag("no_mask", reason)))
        checked.append(row)
    return checked
