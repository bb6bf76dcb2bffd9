"""An nnU-Net raw dataset: images{Tr,Ts}/{case}_{channel}{ending}, labels{Tr,Ts}/{case}{ending}, dataset.json.

The layout is that of nnU-Net's documentation (dataset_format.md); dataset.json may be of its version 1 or 2.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Flag, Participant, check_name
from slimdiff.data.sources.modality import refuse_channel
from slimdiff.data.sources.reading import ENDINGS, is_there, json_object, listed, nifti_files, stem_of
from slimdiff.files import MISSING

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")
SPLITS = {"Tr": "train", "Ts": "test"}


@dataclass(frozen=True)
class _Part:
    """Tr or Ts of a dataset."""

    images: dict[str, dict[int, list[Path]]]
    """case: channel: files; several if .nii.gz and .nii exist side by side."""
    labels: dict[str, list[Path]]


def nnunet_participants(config: DataConfig) -> list[Participant]:
    """Participants of an nnU-Net raw dataset, sorted by name; the split is train for Tr, test for Ts.

    A case with a label is a patient. If its label has no lesion, `data.empty_mask` can make it a control later. Raises
    DataError for a folder without images or labels, a missing channel, and labels without an image.
    """
    root, channel = Path(config.root), config.channel or 0
    if not (root / "imagesTr").is_dir():
        raise DataError(
            f"data.root: expected an nnU-Net dataset (such as nnUNet_raw/Dataset042_FCD), found no folder imagesTr "
            f"in {root}"
        )
    endings = _endings(root, channel, config)
    parts = {part: _read_part(root, part, endings) for part in SPLITS}
    _check_channel(root, parts.values(), channel, endings)
    if not parts["Tr"].labels:
        names = " or ".join(f"{{case}}{ending}" for ending in endings)
        raise DataError(f"{root / 'labelsTr'}: expected {names} for each case of imagesTr, found no label")
    rows = {}
    for part, split in SPLITS.items():
        for case in parts[part].images:
            check_name(case, str(root / f"images{part}"))
            # A case in both parts is listed once, as training case with a flag.
            rows.setdefault(case, _participant(root, case, part, split, parts, channel, endings))
    return [rows[case] for case in sorted(rows)]


def _endings(root: Path, channel: int, config: DataConfig) -> Sequence[str]:
    """File endings of the dataset, from its dataset.json if there is one."""
    described = root / "dataset.json"
    if not is_there(described):
        return ENDINGS
    facts = json_object(described)
    # "modality" in version 1.
    channels = facts.get("channel_names", facts.get("modality"))
    if channels is not None:
        if not isinstance(channels, dict):
            raise DataError(
                f"{described}: expected channel_names as an object of number and name, found {type(channels).__name__}"
            )
        if str(channel) not in channels:
            names = listed((f"{key} ({name})" for key, name in channels.items()), 20)
            raise DataError(f"data.channel: expected a channel of {described}: {names}; found {channel}")
        refuse_channel(str(channels[str(channel)]), str(described), config)
    ending = facts.get("file_ending")
    if ending is None:
        return ENDINGS
    if ending not in ENDINGS:
        raise DataError(
            f"{described}: expected file_ending {' or '.join(ENDINGS)}, found {ending!r}; convert to NIfTI"
        )
    return (ending,)


def _read_part(root: Path, part: str, endings: Sequence[str]) -> _Part:
    images: dict[str, dict[int, list[Path]]] = {}
    for path in nifti_files(root / f"images{part}", endings):
        match = CHANNEL.fullmatch(stem_of(path.name, endings))
        if match:
            images.setdefault(match["case"], {}).setdefault(int(match["channel"]), []).append(path)
    labels: dict[str, list[Path]] = {}
    for path in nifti_files(root / f"labels{part}", endings):
        labels.setdefault(stem_of(path.name, endings), []).append(path)
    alone = sorted(labels.keys() - images.keys())
    if alone:
        raise DataError(
            f"{root / f'labels{part}'}: {len(alone)} labels have no image in images{part}: {listed(alone)}; add the "
            "images (the image of label case is case_0000), or remove the labels"
        )
    return _Part(images, labels)


def _check_channel(root: Path, parts: Iterable[_Part], channel: int, endings: Sequence[str]) -> None:
    present = sorted({number for part in parts for channels in part.images.values() for number in channels})
    if not present:
        names = " or ".join(f"{{case}}_{channel:04d}{ending}" for ending in endings)
        raise DataError(f"{root / 'imagesTr'}: expected {names}, found no image")
    if channel not in present:
        raise DataError(
            f"data.channel: {channel}, but {root} has no image {{case}}_{channel:04d}; found the channels "
            f"{listed((f'{number:04d}' for number in present), 20)}"
        )


def _participant(
    root: Path,
    case: str,
    part: str,
    split: str,
    parts: dict[str, _Part],
    channel: int,
    endings: Sequence[str],
) -> Participant:
    images = parts[part].images[case].get(channel, [])
    labels = parts[part].labels.get(case, [])
    absent = root / f"images{part}" / f"{case}_{channel:04d}{endings[0]}"
    flags = []
    if all(case in found.images for found in parts.values()):
        reason = f"{case} is in imagesTr and in imagesTs of {root}; keep it in one of them"
        flags.append(Flag("two_splits", reason))
    if not images:
        others = ", ".join(f"{number:04d}" for number in sorted(parts[part].images[case]))
        flags.append(Flag("missing_file", f"{case}: {absent} not found, only the channels {others}"))
    if len(images) > 1:
        flags.append(Flag("several_images", _several("images", images)))
    if len(labels) > 1:
        flags.append(Flag("several_masks", _several("masks", labels)))
    excluded = MISSING
    if not labels and part == "Ts":
        excluded = f"no label {case}{endings[0]} in labelsTs: whether it has a lesion is unknown"
    elif not labels:
        reason = (
            f"{root / 'labelsTr'}: no label {case}{endings[0]}, but {case} is in imagesTr; add the label (an empty "
            f"one for a control), or exclude {case} by name"
        )
        flags.append(Flag("no_mask", reason))
    return Participant(
        participant_id=case,
        group="patient" if labels else MISSING,
        group_by_mask=True,
        image=images[0] if images else absent,
        mask=labels[0] if labels else None,
        split=split,
        excluded=excluded,
        flags=tuple(flags),
    )


def _several(kind: str, paths: list[Path]) -> str:
    return (
        f"{paths[0].parent}: {len(paths)} {kind} of one case: {listed(path.name for path in paths)}; keep one"
    )
