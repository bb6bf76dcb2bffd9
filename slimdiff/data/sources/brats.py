"""Files named as in the BraTS challenges: {case}_{suffix} or {case}-{suffix}, in one folder or one per case."""

import re
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Flag, Participant, check_name
from slimdiff.data.sources.bids_names import ends_with_brain, refuse_brain_suffix
from slimdiff.data.sources.reading import listed, nifti_files, stem_of
from slimdiff.files import MISSING

IMAGE_SUFFIXES = ("flair", "t2f")
"""Suffixes of FLAIR images: until the challenge of 2021, and since that of 2023."""
MASK_SUFFIX = "seg"


def brats_participants(config: DataConfig) -> list[Participant]:
    """Participants of such a folder, sorted by name.

    A case with an image and no mask has the flag no_mask, because these datasets have no controls. A case with a mask
    and no image has the flag missing_file. A case with neither is excluded. Raises DataError if no image is found.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"data.root: expected the folder of the cases, found no folder {root}")
    mask_suffix = config.mask_suffix or MASK_SUFFIX
    refuse_brain_suffix(mask_suffix)
    wanted = (config.image_suffix,) if config.image_suffix else IMAGE_SUFFIXES
    if mask_suffix in wanted:
        raise DataError(
            f"data.mask_suffix: expected another suffix than that of the images, found {mask_suffix} for both"
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose = nifti_files(root)
    inside = {folder.name: nifti_files(folder) for folder in folders}
    for image_suffix in wanted:
        images = _by_case(loose, inside, image_suffix)
        if images:
            break
    else:
        names = " or ".join(f"{{case}}_{suffix}.nii.gz" for suffix in wanted)
        raise DataError(
            f"{root}: expected {names}, or folders {{case}} with such a file ('-' is accepted instead of '_'), found "
            "none; see data.image_suffix"
        )
    masks = _by_case(loose, inside, mask_suffix)
    masks = {name: paths for name, paths in masks.items() if not _names_a_brain(name, images)}
    cases = images.keys() | masks.keys()
    if any(case in inside for case in images):
        # With one folder per case, a folder without an image is a case whose image is missing.
        cases |= inside.keys()
    return [
        _participant(root, case, images.get(case, []), masks.get(case, []), image_suffix, mask_suffix, inside)
        for case in sorted(cases)
    ]


def _names_a_brain(name: str, images: dict[str, list[Path]]) -> bool:
    """Whether `{name}_mask` is the brain mask of a case with an image, not the lesion mask of a case {case}_brain."""
    return name not in images and any(
        name.startswith((f"{case}_", f"{case}-")) and ends_with_brain(name.removeprefix(case))
        for case in images
    )


def _by_case(loose: list[Path], inside: dict[str, list[Path]], suffix: str) -> dict[str, list[Path]]:
    """Files with this suffix by case. In a folder only files named after it count; others have no known case."""
    pattern = re.compile(rf"(?P<case>.+)[_-]{re.escape(suffix)}")
    found: dict[str, list[Path]] = {}
    for folder, paths in ((None, loose), *inside.items()):
        for path in paths:
            match = pattern.fullmatch(stem_of(path.name))
            if match and folder in (None, match["case"]):
                found.setdefault(match["case"], []).append(path)
    return found


def _participant(
    root: Path,
    case: str,
    images: list[Path],
    masks: list[Path],
    image_suffix: str,
    mask_suffix: str,
    inside: dict[str, list[Path]],
) -> Participant:
    if images or masks:
        check_name(case, str(root))
    folder = root / case if case in inside else root
    beside = f" (the folder holds {listed(path.name for path in inside[case])})" if inside.get(case) else ""
    if not images:
        absent = folder / f"{case}_{image_suffix}.nii.gz"
        if masks:
            # A patient is never excluded silently.
            missing = Flag("missing_file", f"{absent}: not found, but {masks[0]} exists{beside}")
            return Participant(case, "patient", absent, masks[0], flags=(missing,))
        return Participant(case, MISSING, absent, None, excluded=f"no {image_suffix} image{beside}")
    flags = []
    if len(images) > 1:
        reason = f"{folder}: {len(images)} images of {case}: {listed(path.name for path in images)}; keep one"
        flags.append(Flag("several_images", reason))
    if len(masks) > 1:
        reason = f"{folder}: {len(masks)} masks of {case}: {listed(path.name for path in masks)}; keep one"
        flags.append(Flag("several_masks", reason))
    if not masks:
        reason = (
            f"{folder}: no mask {case}_{mask_suffix}.nii.gz{beside}; add it, exclude {case} by name, or use a table "
            "where its mask is n/a"
        )
        flags.append(Flag("no_mask", reason))
    group = "patient" if masks else MISSING
    mask = masks[0] if masks else None
    return Participant(case, group, images[0], mask, group_by_mask=True, flags=tuple(flags))
