"""The slice files of one participant, and where they lie: what `data.source: slices` has instead of a volume."""

import json
import os
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import Any

from slimdiff.config.data import StackConfig

SLICES = "slice_files"
"""Further column of participants.tsv, a JSON object: the slices of a participant."""
GEOMETRY = ("pixel_mm", "field_mm", "distance_mm", "height_mm", "orientation", "gaps")
"""Keys of `data.slices` that place the slices; the others only find them."""
UNEVEN = 0.25
"""Largest deviation of a relative height from equal distances, in slice distances."""


@dataclass(frozen=True)
class Stack:
    """Pictures of one participant, by ascending z or relative height."""

    images: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    """One for each image; None: no lesion in this slice. Empty for a participant without masks."""
    places: tuple[float, ...]
    """Numbers z, or relative heights from 0 to 1."""
    relative: bool
    """Whether `places` are relative heights."""
    channel: int | None
    """Channel of a multi-channel picture; None: pictures have one, or equal ones."""
    settings: StackConfig
    """Of these the keys GEOMETRY."""

    @property
    def mask_files(self) -> tuple[Path, ...]:
        return tuple(mask for mask in self.masks if mask)

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, *self.mask_files)

    def to_json(self) -> str:
        """The stack as text without line breaks; paths are relative to the folder that all of them share."""
        folders = [path.parent for path in self.files]
        # A table may list absolute and relative paths, which share no folder.
        alike = len({path.is_absolute() for path in folders}) == 1
        folder = os.path.commonpath(folders) if alike else ""
        masks = self.masks or (None,) * len(self.images)

        def short(path: Path | None) -> str | None:
            return path and (os.path.relpath(path, folder) if folder else str(path))

        rows = [
            [place, short(image), short(mask)]
            for place, image, mask in zip(self.places, self.images, masks, strict=True)
        ]
        return json.dumps(
            {
                **self.settings.model_dump(mode="json", include=set(GEOMETRY), exclude_defaults=True),
                "channel": self.channel,
                "relative": self.relative,
                "folder": folder,
                SLICES: rows,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Stack":
        """Inverse of `to_json`. Raises ValueError, TypeError, LookupError for other text."""
        values: dict[str, Any] = json.loads(text)
        channel, relative, folder, rows = (
            values.pop(key) for key in ("channel", "relative", "folder", SLICES)
        )
        masks = tuple(mask and Path(folder, mask) for _, _, mask in rows)
        return cls(
            images=tuple(Path(folder, image) for _, image, _ in rows),
            masks=masks if any(masks) else (),
            places=tuple(place for place, _, _ in rows),
            relative=relative,
            channel=channel,
            settings=StackConfig(**values),
        )

    @property
    def step(self) -> float:
        """Distance of two neighbours, in units of `places`. It requires two different places."""
        if self.relative:
            return (self.places[-1] - self.places[0]) / (len(self.places) - 1)
        return float(gcd(*(int(after - before) for before, after in pairwise(self.places))))

    def missing_places(self) -> list[str]:
        """Numbers z without a file in steps of `step`, or relative heights that are not at equal distances."""
        step, first = self.step, self.places[0]
        if self.relative:
            even = [first + number * step for number in range(len(self.places))]
            return [
                f"{place:g}"
                for place, expected in zip(self.places, even, strict=True)
                if abs(place - expected) > UNEVEN * step
            ]
        numbers = range(int(first), int(self.places[-1]) + 1, int(step))
        return [str(number) for number in numbers if number not in self.places]
