"""What is drawn: single samples, each with its own noise stream, and how many of which z-bin and class."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import read_table

CLASSES = (0, 1)
Counts = Mapping[tuple[int, int], int]
"""(z-bin, class): samples a replica."""


def stream_key(
    seed: int, fold: int, z_bin: int, label: int, replica: int, index: int, variant: str | None = None
) -> str:
    """The readable name of a sample's noise stream; it stands in the manifest."""
    name = f"seed={seed}/fold={fold}/zbin={z_bin}/class={label}/replica={replica}/index={index}"
    return f"{name}/variant={variant}" if variant else name


@dataclass(frozen=True)
class Request:
    """One sample to draw."""

    key: str
    z_bin: int
    label: int
    replica: int
    index: int

    @property
    def id(self) -> str:
        return f"zbin-{self.z_bin:02d}_class-{self.label}_replica-{self.replica}_{self.index:05d}"


def requests_of_bin(
    config: GenerationConfig, fold: int, variant: str, z_bin: int, counts: Counts | None = None
) -> list[Request]:
    """All samples of a z-bin: replicas x classes x their number, by default `per_bin_and_class`."""
    name = variant if config.variant_in_key else None
    number = {label: config.per_bin_and_class for label in CLASSES}
    if counts is not None:
        number = {label: counts.get((z_bin, label), 0) for label in CLASSES}
    return [
        Request(
            stream_key(config.seed, fold, z_bin, label, replica, index, name), z_bin, label, replica, index
        )
        for replica in range(config.replicas)
        for label in CLASSES
        for index in range(number[label])
    ]


def counts_of(config: GenerationConfig, n_bins: int) -> dict[tuple[int, int], int]:
    """Samples a replica of every z-bin and class: from the table that the configuration names, or the same of each."""
    if config.counts is not None:
        return read_counts(Path(config.counts), n_bins)
    return {(z_bin, label): config.per_bin_and_class for z_bin in range(n_bins) for label in CLASSES}


def read_counts(path: Path, n_bins: int) -> dict[tuple[int, int], int]:
    """Read a table of counts: columns z_bin, class, n; without n every row is one slice.

    Raises FileNotFoundError, or ValueError naming file, line, what was found and what is allowed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such table of counts (generation.counts)")
    try:
        rows = read_table(path, ("z_bin", "class"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None
    counts: dict[tuple[int, int], int] = {}
    summed = bool(rows) and "n" in rows[0]
    if rows and not summed and not {"participant", "z"} & set(rows[0]):
        # A misspelt n would be one sample a row.
        raise ValueError(
            f"{path}: neither a column n (samples) nor participant or z (a row a slice); found {', '.join(rows[0])}"
        )
    for line, row in enumerate(rows, start=2):
        limits = {"z_bin": n_bins - 1, "class": 1}
        if summed:
            limits["n"] = 10**6
        for column, largest in limits.items():
            if not re.fullmatch("[0-9]+", row[column]) or int(row[column]) > largest:
                raise ValueError(
                    f"{path}, line {line}: {column} is {row[column]!r}; a whole number from 0 to {largest} is wanted"
                )
        cell = int(row["z_bin"]), int(row["class"])
        if summed and cell in counts:
            raise ValueError(f"{path}, line {line}: z_bin {cell[0]}, class {cell[1]} stands there twice")
        counts[cell] = counts.get(cell, 0) + (int(row["n"]) if summed else 1)
    if not any(counts.values()):
        raise ValueError(f"{path}: not one sample is asked for")
    return counts


def parse_bins(text: str, n_bins: int) -> list[int]:
    """`all`, or numbers and rising ranges: "0,3,10-12". Raises ValueError saying which part is wrong and why."""
    if text == "all":
        return list(range(n_bins))
    chosen: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ValueError(f"z_bins {text!r}: {part!r} is neither a number nor a rising range such as 3-5")
        if last >= n_bins:
            raise ValueError(
                f"z_bins {text!r}: {last} is too high; the checkpoint has z-bins 0 to {n_bins - 1}"
            )
        twice = sorted(set(chosen) & set(range(first, last + 1)))
        if twice:
            raise ValueError(f"z_bins {text!r}: {twice[0]} stands there twice")
        chosen += range(first, last + 1)
    return chosen
