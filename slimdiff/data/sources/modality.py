"""Images that are named as another modality than the study would call them."""

import re
from collections.abc import Iterable

from slimdiff.config.data import MODALITIES, DataConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.sources.reading import listed, stem_of

SEPARATOR = re.compile(r"[_\-. ]")


def modality_of(name: str) -> str | None:
    """What a name such as `t1ce` or `T2-FLAIR` means, or None if it is not known."""
    return MODALITIES.get("".join(letter for letter in name.lower() if letter.isalnum()))


def refuse_channel(name: str, where: str, config: DataConfig) -> None:
    """Raise DataError if a channel has the name of another modality and the study does not say which one it is."""
    found = modality_of(name)
    if config.modality is None and found not in (None, config.modality_name):
        raise DataError(
            f"{where}: channel {config.channel or 0} is {name}; expected {config.modality_name}; set data.modality: "
            f"{found} if this is the channel to learn, or else data.channel"
        )


def refuse_other_modality(participants: Iterable[Participant], config: DataConfig) -> None:
    """Raise DataError if names of images end in another modality (sub-01_T1w.nii.gz) and the study names none.

    For sources where nothing else says what the images are: a table, and slices.
    """
    if config.modality is not None or config.source not in ("table", "slices"):
        return
    images = [path for row in participants if row.included for path in row.images]
    found = {path: modality_of(SEPARATOR.split(stem_of(path.name) or path.stem)[-1]) for path in images}
    others = {path: name for path, name in found.items() if name not in (None, config.modality_name)}
    if others:
        names = sorted(set(others.values()))
        advice = (
            f"set data.modality: {names[0]}"
            if len(names) == 1 and len(others) == len(images)
            else ("a study learns one modality: correct the paths; if all are of one, set data.modality")
        )
        raise DataError(
            f"data.modality: {len(others)} of {len(images)} images are named as {' or '.join(names)}, and the study "
            f"would call them {config.modality_name}: {listed(str(path) for path in others)}; {advice}"
        )
