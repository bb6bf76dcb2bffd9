"""A BIDS dataset: sub-*/[ses-*/]anat/sub-*_{suffix}.nii[.gz], on disk or to be fetched."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Flag, Participant, check_name, first_of
from slimdiff.data.sources.bids_names import (
    OTHER,
    BidsFile,
    mask_by_its_name,
    nearly,
    refuse_brain_suffix,
    same_label,
    says_brain,
    sort_files,
    subjects_of,
    tree_of,
    with_entities,
)
from slimdiff.data.sources.described import described, refuse_mismatch
from slimdiff.data.sources.lost_masks import keys_for, masks_in_derivatives
from slimdiff.data.sources.reading import further_of, is_there, json_object, listed, stem_of
from slimdiff.data.sources.unseen import (
    loose_masks,
    refuse_other_folders,
    refuse_other_tables,
    same_subject,
    says_lesion,
    unseen_files,
)
from slimdiff.files import MISSING


def bids_participants(config: DataConfig) -> list[Participant]:
    """Participants of the BIDS dataset in the folder `data.root`."""
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"data.root: expected the folder of a BIDS dataset, found no folder {root}")
    refuse_other_folders(root)
    if not is_there(root / "participants.tsv"):
        refuse_other_tables(root / "participants.tsv")
    return bids_participants_of(tree_of(root), root, config)


def bids_participants_of(
    paths: Iterable[PurePosixPath],
    root: Path,
    config: DataConfig,
    fetched_groups: tuple[str, str] | None = None,
) -> list[Participant]:
    """Participants of a BIDS dataset with these files.

    Group, site, split, lobe and person come from participants.tsv if it has them; the acquisition comes from the
    image's `acq-` entity.

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
    # Masks of a dataset to be fetched are in its list; otherwise they may be in a place that no key names.
    hidden = {} if config.mask_root or fetched_groups else masks_in_derivatives(root, mask_suffix)
    loose = {} if fetched_groups else loose_masks(root)
    seen = {file.path for kind in kinds for own in files[kind].values() for file in own}
    lines, flags = described(root / "participants.tsv", subjects)
    if fetched_groups is None:
        refuse_mismatch(root / "participants.tsv", lines, subjects & (of_root | lines.keys()), config.exclude)
        subjects |= lines.keys()
    _refuse_unknown_entities([image for own in files["image"].values() for image in own], root, config)
    rows, dropped = [], []
    for name in sorted(subjects):
        check_name(name, str(root / "participants.tsv" if name in lines else root))
        line = lines.get(name, {})
        images, masks, brains = (files[kind].get(name, []) for kind in kinds)
        chosen = with_entities(images, config.entities)
        if not chosen:
            group = fetched_groups[0 if masks else 1] if fetched_groups else MISSING
            row = _without_image(name, line, group, images, root, config)
            if not images and name in of_root:
                others = [file for file in files[OTHER].get(name, []) if root in file.path.parents]
                others += [file for file in unseen_files(root / name, seen) if same_subject(file, name)]
                near = nearly(others, image_suffix)
                row = _with_lost_image(row, masks, near)
            rows.append(row)
            dropped += [name] if images else []
            continue
        faults = [flags[name]] if name in flags else []
        if len(chosen) > 1:
            reason = (
                f"{root / name}: {len(chosen)} images match _{image_suffix}: {_names(chosen)}; select one with "
                "data.entities, keep one file, or use a table"
            )
            faults.append(Flag("several_images", reason))
        image = chosen[0]
        union = config.several_masks == "union"
        mask, *more = _of_image(masks, image, mask_suffix, "masks", faults, union) or [None]
        with_mask, without_mask = fetched_groups or ("patient", "control")
        group = first_of(line, "group")
        if not masks and not group:
            faults += _stray_masks(name, files[OTHER].get(name, []), hidden.get(name, []), mask_suffix)
            if not faults and fetched_groups is None:
                own = [root / name, *([Path(config.mask_root) / name] if config.mask_root else [])]
                unseen = [
                    file for folder in own for file in unseen_files(folder, seen) if says_lesion(file, folder)
                ]
                faults += _unseen_masks(name, [*unseen, *loose.get(name, [])], mask_suffix)
        rows.append(
            Participant(
                participant_id=name,
                group=group or (with_mask if masks else without_mask),
                group_by_mask=not group and fetched_groups is None,
                image=image.path,
                mask=mask,
                acquisition=image.entities.get("acq", MISSING),
                site=first_of(line, "site") or MISSING,
                split=first_of(line, "split") or MISSING,
                lobe=first_of(line, "lobe") or MISSING,
                person=first_of(line, "person") or MISSING,
                brain_mask=next(
                    iter(_of_image(brains, image, config.brain_suffix, "brain masks", faults)), None
                ),
                further=further_of(line),
                flags=tuple(faults),
                more_masks=tuple(more),
            )
        )
    if not any(row.included and not any(flag.name == "missing_file" for flag in row.flags) for row in rows):
        only = f" with {_as_written(config.entities)}" if config.entities else ""
        keys = "data.image_suffix and data.entities" if config.entities else "data.image_suffix"
        raise DataError(
            f"{root}: expected images sub-*/anat/sub-*_{image_suffix}.nii.gz{only}, found none; see {keys}"
        )
    _refuse_many_dropped(
        [name for name in dropped if name not in config.exclude],
        sum(bool(images) for name, images in files["image"].items() if name not in config.exclude),
        root,
        config,
    )
    return rows


def _refuse_unknown_entities(images: list[BidsFile], root: Path, config: DataConfig) -> None:
    """Raise DataError for an entity of `data.entities` that chooses no image at all."""
    absent = {
        key: value
        for key, value in config.entities.items()
        if not any(same_label(image.entities.get(key, ""), value) for image in images)
    }
    if images and absent:
        suffix, _ = suffixes_of(config)
        found = sorted(
            {f"{key}-{image.entities[key]}" for image in images for key in absent if key in image.entities}
        )
        raise DataError(
            f"{root}: expected images _{suffix} with {_as_written(absent)}, found "
            f"{listed(found) or 'none with ' + ', '.join(absent)}; correct data.entities"
        )


def _refuse_many_dropped(dropped: list[str], subjects: int, root: Path, config: DataConfig) -> None:
    """Raise DataError if `data.entities` drops too many of the subjects that have images."""
    if len(dropped) > config.entities_may_drop * subjects:
        raise DataError(
            f"{root}: data.entities ({_as_written(config.entities)}) drops {len(dropped)} of {subjects} subjects with "
            f"images ({listed(dropped)}), but data.entities_may_drop is {config.entities_may_drop:g}; correct "
            "data.entities, exclude these subjects by name (data.exclude), or raise data.entities_may_drop"
        )


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
        group=first_of(line, "group") or group,
        image=others[0].path if others else root / name / "anat" / f"{name}_{suffix}.nii.gz",
        mask=None,
        excluded=reason,
        further=further_of(line),
    )


def _with_lost_image(row: Participant, masks: list[BidsFile], near: BidsFile | None) -> Participant:
    """Flag a lost image: the subject has a lesion mask, or a file with nearly the expected name."""
    if near is not None:
        reason = f"{row.image} not found, but {near.path} exists; rename, move or convert it, or set data.image_suffix"
    elif masks:
        reason = f"{row.image} not found, but its mask {masks[0].path} exists; add the image"
    else:
        return row
    mask = masks[0].path if masks else None
    # It needs a group, so that `data.groups` does not exclude it.
    unstated = row.group == MISSING
    group = ("patient" if masks else "control") if unstated else row.group
    flags = (Flag("missing_file", reason),)
    return replace(row, mask=mask, group=group, group_by_mask=unstated, excluded=MISSING, flags=flags)


def _stray_masks(name: str, others: list[BidsFile], hidden: list[BidsFile], suffix: str) -> list[Flag]:
    """The flag of a subject that would be a control, although a file of it has the name of a lesion mask."""
    stray = nearly((file for file in others if not says_brain(file.stem)), suffix) or mask_by_its_name(others)
    if stray:
        reason = (
            f"{stray.path} looks like a lesion mask, but the expected suffix is _{suffix}, so {name} would be "
            "a control; rename the file, set data.mask_suffix, or give the group in participants.tsv"
        )
    elif hidden:
        reason = (
            f"{hidden[0].path} looks like a lesion mask, but data.mask_root is not set, so {name} would be a control; "
            f"set {keys_for(hidden, suffix)}, or give the group in participants.tsv"
        )
    else:
        return []
    return [Flag("no_mask", reason)]


def _unseen_masks(name: str, masks: list[BidsFile], suffix: str) -> list[Flag]:
    """The flag of a subject that would be a control, although such files are its masks by their names."""
    if not masks:
        return []
    reason = (
        f"{listed((str(mask.path) for mask in masks), 2)} looks like a lesion mask, but masks are read as "
        f"{name}/[ses-*/]anat/{name}_*{suffix}.nii[.gz], so {name} would be a control; convert, rename or move the "
        "file, use a table, or give the group in participants.tsv"
    )
    return [Flag("no_mask", reason)]


def suffixes_of(config: DataConfig) -> tuple[str, str]:
    """Suffixes of images and of lesion masks; raises DataError if two kinds of files would have the same names."""
    image, mask = config.image_suffix or "FLAIR", config.mask_suffix or "FLAIR_roi"
    if image == mask and not config.mask_root:
        raise DataError(
            f"data.mask_suffix: expected another suffix than data.image_suffix, found {mask} for both"
        )
    refuse_brain_suffix(mask)
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


def _of_image(
    files: list[BidsFile],
    image: BidsFile,
    suffix: str | None,
    kind: str,
    faults: list[Flag],
    union: bool = False,
) -> list[Path]:
    """The masks of an image: from its session if both have one, otherwise from its subject. One, unless `union`."""
    fitting = [file for file in files if file.fits_session_of(image)]
    if len(fitting) > 1 and not union:
        folder = _subject_folder(fitting[0].path)
        ways = "keep one, set data.several_masks: union," if kind == "masks" else "keep one"
        reason = f"{folder}: {len(fitting)} {kind} match _{suffix}: {_names(fitting)}; {ways} or use a table"
        faults.append(Flag("several_masks", reason))
    if files and not fitting and kind == "masks":
        # A subject with a lesion in another session is not a control in this one.
        reason = (
            f"{_subject_folder(files[0].path)}: expected a mask of the image's session ses-{image.session}, found only "
            f"{_names(files)}; select the session with data.entities, or use a table"
        )
        faults.append(Flag("no_mask", reason))
    return [file.path for file in (fitting if union else fitting[:1])]


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
