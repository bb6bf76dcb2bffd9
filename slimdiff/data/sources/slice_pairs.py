"""Slices as pictures: participants from the names of single files, or from a table with one row a slice."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slimdiff.config.data import PART, PICTURES, DataConfig
from slimdiff.data.participants import DataError, Flag, Participant, check_name, first_of
from slimdiff.data.sources.columns import CONTROL, PATIENT, plain_name, split_word
from slimdiff.data.sources.reading import further_of, listed, table_lines
from slimdiff.data.stack import Stack
from slimdiff.files import MISSING, content_hint

FACTS = ("group", "acquisition", "site", "split", "lobe", "person")
"""Parts and columns that are read as those of participants.tsv."""
KINDS = {"z": r"[0-9]+", "height": r"[0-9]*\.?[0-9]+"}
"""Part that says where a slice lies: what it looks like in a name."""


@dataclass
class _Slices:
    """Files of one participant by place, and what the names or rows say about it."""

    images: dict[float, list[Path]] = field(default_factory=lambda: defaultdict(list))
    masks: dict[float, list[Path]] = field(default_factory=lambda: defaultdict(list))
    facts: dict[str, str | None] = field(default_factory=dict)

    def describe(self, said: dict[str, str | None], where: str, who: str) -> None:
        """Add what one name or row says about the participant; raises DataError if another one says otherwise."""
        for fact, value in said.items():
            before = self.facts.setdefault(fact, value)
            if before == value:
                continue
            if fact in FACTS:
                raise DataError(
                    f"{where}: expected {fact} {before or MISSING}, as in other slices of {who}, found "
                    f"{value or MISSING}; one participant has one {fact}"
                )
            # It describes slices, not participants.
            self.facts[fact] = None


def slices_participants(config: DataConfig) -> list[Participant]:
    """Participants of a folder of pictures (`data.slices`), or of a table of slices, sorted by name.

    Faults of one participant become flags: several_images and several_masks (two files of one slice), missing_file (a
    mask without an image), no_mask (a slice without a mask). Raises DataError for patterns that fit no file, and for a
    table that cannot be used.
    """
    found, relative = _listed_in(Path(config.table)) if config.table else _named(config)
    if relative and config.slices.height_mm is None:
        raise DataError("data.slices.height_mm: relative heights of slices require it, found null; set it")
    return [_participant(name, found[name], relative, config) for name in sorted(found)]


# By name -----------------------------------------------------------------------------------------------------------


def _named(config: DataConfig) -> tuple[dict[str, _Slices], bool]:
    root, settings = Path(config.root), config.slices
    if not root.is_dir():
        raise DataError(f"data.root: expected the folder of the slices, found no folder {root}")
    image, mask = settings.image, settings.mask
    key = "height" if "height" in PART.findall(image) else "z"
    if key not in PART.findall(mask):
        raise DataError(
            f"data.slices.mask: expected the part {{{key}}}, as in data.slices.image, found {mask}"
        )
    files = {pattern: _files_of(root, pattern) for pattern in (image, mask)}
    both = files[image].keys() & files[mask].keys()
    if both:
        # A_mask_07.png also fits {participant}_{z}.png: the pattern with more letters of its own counts.
        more = _own_letters(mask) - _own_letters(image)
        if more == 0:
            raise DataError(
                f"data.slices: expected patterns that tell images from masks, found {len(both)} files that fit both "
                f"{image} and {mask}, such as {min(both)}; make one of them more exact"
            )
        for path in both:
            del files[image if more > 0 else mask][path]
    for pattern, name in ((image, "image"), (mask, "mask")):
        if not files[pattern]:
            raise DataError(f"data.slices.{name}: no file below {root} fits {pattern}{_instead(root, both)}")
    found: dict[str, _Slices] = defaultdict(_Slices)
    for path, parts in files[image].items():
        own = found[parts["participant"]]
        own.images[_place(parts[key], key, str(path))].append(path)
        said = {name: value for name, value in parts.items() if name not in ("participant", key)}
        own.describe(said, str(path), parts["participant"])
    for path, parts in files[mask].items():
        found[parts["participant"]].masks[_place(parts[key], key, str(path))].append(path)
    for name in found:
        check_name(name, str(root))
    return found, key == "height"


def _files_of(root: Path, pattern: str) -> dict[Path, dict[str, str]]:
    """Pictures that fit the pattern, sorted, with the values of its parts."""
    fits = re.compile(_expression(pattern), re.IGNORECASE)
    found = {}
    # A level of folders for each level of the pattern; links to folders are followed.
    for path in sorted(root.glob("/".join("*" * (pattern.count("/") + 1)))):
        below = path.relative_to(root)
        # macOS leaves "._case.png" and __MACOSX beside copied files.
        hidden = any(part.startswith((".", "__MACOSX")) for part in below.parts)
        if hidden or path.suffix.lower() not in PICTURES or path.is_dir():
            continue
        match = fits.fullmatch(below.as_posix())
        if match:
            found[path] = match.groupdict()
    return found


def _expression(pattern: str) -> str:
    """The pattern as a regular expression: parts hold no / and are as short as possible, from left to right."""
    text, seen = "", set()
    for number, piece in enumerate(PART.split(pattern)):
        if number % 2 == 0:
            text += "[^/]*".join(map(re.escape, piece.split("*")))
        elif piece in seen:
            text += f"(?P={piece})"
        else:
            seen.add(piece)
            text += f"(?P<{piece}>{KINDS.get(piece, '[^/]+?')})"
    return text


def _own_letters(pattern: str) -> int:
    return len(PART.sub("", pattern).replace("*", ""))


def _instead(root: Path, both: Iterable[Path]) -> str:
    """What an error adds about the pictures that are there."""
    if both := list(both):
        return f" alone: {len(both)} files fit the patterns of images and of masks, such as {min(both)}"
    there = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES)
    names = listed((path.relative_to(root).as_posix() for path in there), 3)
    return f"; found {len(there)} pictures ({names})" if there else f"; found no {', '.join(PICTURES)} there"


# By a table --------------------------------------------------------------------------------------------------------


def _listed_in(table: Path) -> tuple[dict[str, _Slices], bool]:
    if not table.is_file():
        raise DataError(f"data.table: {table} {content_hint(table) or 'not found'}")
    found: dict[str, _Slices] = defaultdict(_Slices)
    column, key = None, ""
    for number, line in table_lines(table, ("participant_id", "image"), ("mask", *FACTS)):
        where, name = f"{table}, line {number}", line["participant_id"]
        if column is None:
            column, key = _place_column(line, table)
        check_name(name, where)
        image, mask = first_of(line, "image"), first_of(line, "mask")
        if image is None:
            raise DataError(f"{where}: expected a path in column image of {name}, found none")
        own, place = found[name], _place(line[column], key, f"{where}: column {column}")
        own.images[place].append(table.parent / image)
        if mask:
            own.masks[place].append(table.parent / mask)
        facts = {fact: first_of(line, fact) for fact in FACTS}
        facts |= {other: value for other, value in further_of(line).items() if other != column}
        own.describe(facts, where, name)
    return found, key == "height"


def _place_column(line: dict[str, str], table: Path) -> tuple[str, str]:
    """The column of z or the relative height, and which of them."""
    names = {plain_name(name): name for name in line}
    keys = [key for key in KINDS if key in names]
    if len(keys) != 1:
        found = "both" if keys else f"{', '.join(names)}"
        raise DataError(f"{table}: expected a column z, or a column height (relative, 0 to 1), found {found}")
    return names[keys[0]], keys[0]


# Both --------------------------------------------------------------------------------------------------------------


def _place(text: str, key: str, where: str) -> float:
    """z or relative height as a number; spreadsheets write 7 as 7.0."""
    try:
        place = float(text)
    except ValueError:
        place = math.nan
    if not (place.is_integer() if key == "z" else 0 <= place <= 1):
        expected = "a whole number z" if key == "z" else "a relative height from 0 to 1"
        raise DataError(f"{where}: expected {expected}, found {text!r}")
    return place


def _participant(name: str, found: _Slices, relative: bool, config: DataConfig) -> Participant:
    flags = list(_faults(name, found, config))
    places = sorted(found.images)
    facts = {key: found.facts.get(key) or MISSING for key in FACTS}
    with_mask = bool(found.masks)
    group_by_mask = facts["group"] == MISSING
    if group_by_mask:
        # Without a table no file says that there is no lesion: `data.patients_without_mask` decides.
        healthy = not with_mask and (config.listed or config.on_patients_without_mask == "control")
        facts["group"] = CONTROL if healthy else PATIENT
    further = {key: value or MISSING for key, value in found.facts.items() if key not in FACTS}
    if not places:
        first_mask = found.masks[min(found.masks)][0]
        group = facts["group"]
        return Participant(
            name, group, first_mask, first_mask, group_by_mask=group_by_mask, flags=tuple(flags)
        )
    masks = tuple((found.masks.get(place) or [None])[0] for place in places)
    stack = Stack(
        images=tuple(found.images[place][0] for place in places),
        masks=masks if any(masks) else (),
        places=tuple(places),
        relative=relative,
        channel=config.channel,
        settings=config.slices.model_copy(
            update={key: None for key in ("image", "mask")} | {"missing_mask": "error"}
        ),
    )
    return Participant(
        participant_id=name,
        image=stack.images[0],
        mask=stack.mask_files[0] if stack.masks else None,
        **{**facts, "split": split_word(facts["split"])},
        group_by_mask=group_by_mask,
        further=further,
        flags=tuple(flags),
        stack=stack,
    )


def _faults(name: str, found: _Slices, config: DataConfig) -> Iterable[Flag]:
    for flag, what, files in (
        ("several_images", "images", found.images),
        ("several_masks", "masks", found.masks),
    ):
        for place, paths in sorted(files.items()):
            if len(paths) > 1:
                names = listed(map(str, paths))
                yield Flag(flag, f"{name}: {len(paths)} {what} of slice {place:g}: {names}; keep one")
    alone = [found.masks[place][0] for place in sorted(found.masks.keys() - found.images.keys())]
    if alone:
        reason = (
            f"{name}: {len(alone)} masks have no image: {_some(alone)}; add the images, or remove the masks"
        )
        yield Flag("missing_file", reason)
    without = [found.images[place][0] for place in sorted(found.images.keys() - found.masks.keys())]
    if found.masks and without and config.slices.missing_mask == "error":
        yield Flag(
            "no_mask",
            f"{name}: {len(without)} of {len(found.images)} slices have no mask: {_some(without)}; add the masks, or, "
            "if a slice without a mask has no lesion, set data.slices.missing_mask: lesion_free",
        )
    if config.table:
        paths = [path for files in (found.images, found.masks) for own in files.values() for path in own]
        hints = {path: content_hint(path) for path in paths if not path.is_file() or content_hint(path)}
        if hints:
            shown = listed((f"{path} {hint or 'not found'}" for path, hint in hints.items()), 3)
            yield Flag("missing_file", f"{config.table}: {name}: {shown}")


def _some(paths: Sequence[Path]) -> str:
    return listed(map(str, paths), 3)
