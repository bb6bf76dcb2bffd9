"""Which samples are drawn: each with its own noise stream, and how many of each z-bin and class."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config.generation import GenerationConfig
from slimdiff.data.store import FEWEST_LESION_SUBJECTS, few_lesion_subjects
from slimdiff.files import read_table
from slimdiff.generation.samples import bin_name

CLASSES = (0, 1)
Counts = Mapping[tuple[int, int], int]
"""(z-bin, class): samples a replica."""


def stream_key(
    seed: int, fold: int, z_bin: int, label: int, replica: int, index: int, variant: str | None = None
) -> str:
    """The readable name of a sample's noise stream, a column of the manifest."""
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
    mode: str | None = None
    """How its fixed part was given (`mask_to_image`, `inpaint`), for the manifest; None: nothing is fixed."""
    source: str | None = None
    """Where its fixed part is from, for the manifest."""

    @property
    def id(self) -> str:
        """Its name in the manifest."""
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
            stream_key(config.seed or 0, fold, z_bin, label, replica, index, name),
            z_bin,
            label,
            replica,
            index,
        )
        for replica in range(config.replicas)
        for label in CLASSES
        for index in range(number[label])
    ]


def requests_of_bins(
    config: GenerationConfig, fold: int, variant: str, z_bins: Sequence[int], counts: Counts | None = None
) -> dict[str, list[Request]]:
    """The requests of some z-bins by the name of the z-bin's files."""
    return {bin_name(z_bin): requests_of_bin(config, fold, variant, z_bin, counts) for z_bin in z_bins}


def counts_of(config: GenerationConfig, n_bins: int) -> dict[tuple[int, int], int]:
    """Samples per replica of each z-bin and class: from the table `generation.counts`, or the same number of each."""
    if config.counts is not None:
        return read_counts(Path(config.counts), n_bins)
    return {(z_bin, label): config.per_bin_and_class for z_bin in range(n_bins) for label in CLASSES}


def bins_without_lesions(config: GenerationConfig, lesion_subjects: Sequence[int] | None) -> dict[int, int]:
    """z-bins whose class-1 samples are not drawn, with the number of training subjects that have a lesion there.

    lesion_subjects: that number for each z-bin; None: unknown, so that all are drawn.
    """
    if config.where == "everywhere" or lesion_subjects is None:
        return {}
    return few_lesion_subjects(lesion_subjects)


def why_not_drawn(subjects: int) -> str:
    """Why a z-bin has no class-1 samples; subjects: training subjects with a lesion there."""
    return (
        f"no sample of class 1: {subjects} training subject{'' if subjects == 1 else 's'} with a lesion in this z-bin, "
        f"at least {FEWEST_LESION_SUBJECTS} are required (generation.where: seen)"
    )


def why_doubtful(subjects: int) -> str:
    """What is wrong with class-1 samples that a table of counts names nevertheless."""
    return (
        f"generation.counts names samples of class 1: {subjects} training subject{'' if subjects == 1 else 's'} with a "
        "lesion in this z-bin, so they copy one subject, or lesions of other z-bins"
    )


def read_counts(path: Path, n_bins: int) -> dict[tuple[int, int], int]:
    """Read a table of counts: columns z_bin, class, n; without n every row counts as one slice.

    Raises FileNotFoundError, or ValueError naming file, line, what was found and what is allowed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: not found, but generation.counts names it")
    rows = read_table(path, ("z_bin", "class"))
    counts: dict[tuple[int, int], int] = {}
    summed = bool(rows) and "n" in rows[0]
    if rows and not summed and not {"participant", "z"} & set(rows[0]):
        # A misspelt n would be one sample a row.
        raise ValueError(
            f"{path}: expected a column n (samples), or participant or z (one slice per row), found "
            f"{', '.join(rows[0])}"
        )
    for line, row in enumerate(rows, start=2):
        limits = {"z_bin": n_bins - 1, "class": 1}
        if summed:
            limits["n"] = 10**6
        for column, largest in limits.items():
            if not re.fullmatch("[0-9]{1,9}", row[column]) or int(row[column]) > largest:
                raise ValueError(
                    f"{path}, line {line}: {column}: expected a whole number from 0 to {largest}, found "
                    f"{row[column][:60]!r}"
                )
        key = int(row["z_bin"]), int(row["class"])
        if summed and key in counts:
            raise ValueError(f"{path}, line {line}: duplicate z_bin {key[0]}, class {key[1]}; remove one")
        counts[key] = counts.get(key, 0) + (int(row["n"]) if summed else 1)
    if not any(counts.values()):
        raise ValueError(f"{path}: expected at least one sample, found none")
    return counts


def parse_bins(text: str, n_bins: int) -> list[int]:
    """`all`, or numbers and rising ranges: "0,3,10-12". Raises ValueError naming the part that is wrong."""
    if text == "all":
        return list(range(n_bins))
    chosen: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ValueError(
                f"z_bins {text!r}: expected a number or a rising range such as 3-5, found {part!r}"
            )
        if last >= n_bins:
            raise ValueError(f"z_bins {text!r}: the checkpoint has z-bins 0 to {n_bins - 1}, found {last}")
        duplicate = sorted(set(chosen) & set(range(first, last + 1)))
        if duplicate:
            raise ValueError(f"z_bins {text!r}: duplicate {duplicate[0]}; remove one")
        chosen += range(first, last + 1)
    return chosen
