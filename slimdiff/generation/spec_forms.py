"""The JSON specification of a set of samples: how many of which z-bin and class, from which checkpoint, to where.

Two forms, told apart by `format`: `detailed` lists z-bins with their counts, `compact` gives the counts of many z-bins
at once and may override single ones. Control is class 0 (no lesion), lesion is class 1. Paths are relative to the
current folder, as on the command line. Nothing is read leniently: a key that is unknown or stands twice, 2.0 where a
whole number is wanted, or a z-bin that is named twice is an error with its place (docs/method.md, F7).

Here are the models. `spec_reading` makes them from a file and judges what no schema can say, `spec_checks` compares
them with the checkpoint and the other files, and `spec` draws.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from slimdiff.config.base import PositiveInt, Section, Seed

# More than this is a slip of the finger: a million slices of 160 x 160 px are 100 GB.
MAX_COUNT = 1_000_000
MAX_REPLICAS = 1_000
MAX_BIN = 9_999
BIN_RANGE = r"^[0-9]{1,4}-[0-9]{1,4}$"

Amount = Annotated[int, Field(ge=0, le=MAX_COUNT)]
BinNumber = Annotated[int, Field(ge=0, le=MAX_BIN)]
BinRange = Annotated[str, Field(pattern=BIN_RANGE)]
# A ~ is the shell's, which expands none here: it would become a folder of that name.
PathText = Annotated[str, Field(pattern=r"^[^~\s\x00][^\x00]*$")]


class BinCounts(Section):
    """Samples of one z-bin."""

    zbin: BinNumber
    """The z-bin, counted from 0."""
    control: Amount
    """Samples of class 0, without lesion."""
    lesion: Amount
    """Samples of class 1, with lesion."""


class Defaults(Section):
    """Samples of every z-bin in `zbins`."""

    control: Amount
    """Samples of class 0, without lesion, of each z-bin."""
    lesion: Amount
    """Samples of class 1, with lesion, of each z-bin."""
    zbins: Literal["all"] | BinRange | Annotated[list[BinNumber | BinRange], Field(min_length=1)]
    """`all` that the checkpoint knows, a range "a-b" with both ends, or a list of z-bins and ranges."""


class _Common(Section):
    checkpoint_path: PathText
    """The model.safetensors to draw from, relative to the current folder."""
    output_dir: PathText
    """Folder of the samples, relative to the current folder: new, empty, or begun by this specification."""
    config_path: PathText | None = None
    """A study (YAML or JSON) whose section `generation` tells how to draw; without it that section's defaults hold.
    Its per_bin_and_class has no say here."""
    seed: Seed | None = None
    """Seed of the per-sample noise streams, in the place of generation.seed."""
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """Where to draw, in the place of generation.device."""
    replicas: Annotated[PositiveInt, Field(le=MAX_REPLICAS)] | None = None
    """Independent repetitions of the whole set, in the place of generation.replicas."""
    priors_path: PathText | None = None
    """The fold's z-bin priors (npz), wanted where generation.background is `prior`."""
    editor_schema: str | None = Field(default=None, alias="$schema")
    """Address of this schema, for editors; not read."""

    @field_validator(
        "config_path", "seed", "device", "replicas", "priors_path", "editor_schema", mode="before"
    )
    @classmethod
    def _given(cls, value: Any) -> Any:
        # A null is what a script writes whose variable was not set.
        if value is None:
            raise ValueError("null")
        return value


class DetailedSpec(_Common):
    """A specification that lists its z-bins."""

    format: Literal["detailed"]
    """`detailed`: the z-bins are listed in `samples`."""
    samples: Annotated[list[BinCounts], Field(min_length=1)]
    """z-bins with their counts, each z-bin once."""

    def counts(self, n_bins: int) -> dict[tuple[int, int], int]:
        """{(z-bin, class): samples of one replica}, in order and without zeros."""
        return _by_bin_and_class({entry.zbin: (entry.control, entry.lesion) for entry in self.samples})

    def named_bins(self) -> Iterator[tuple[tuple[str | int, ...], int, int]]:
        """Place, first and last z-bin of everything that names z-bins."""
        for index, entry in enumerate(self.samples):
            yield ("samples", index, "zbin"), entry.zbin, entry.zbin


class CompactSpec(_Common):
    """A specification that gives the counts of many z-bins at once."""

    format: Literal["compact"]
    """`compact`: `defaults` holds for many z-bins, `overrides` for single ones."""
    defaults: Defaults
    """Counts of every z-bin in `defaults.zbins`."""
    overrides: list[BinCounts] = Field(default_factory=list)
    """Other counts for single z-bins, each one of `defaults.zbins` and named once; 0 and 0 leaves a z-bin out."""

    def counts(self, n_bins: int) -> dict[tuple[int, int], int]:
        """{(z-bin, class): samples of one replica}, in order and without zeros."""
        bins = range(n_bins) if self.defaults.zbins == "all" else _expanded(self.defaults.zbins)
        wanted = dict.fromkeys(bins, (self.defaults.control, self.defaults.lesion))
        wanted |= {entry.zbin: (entry.control, entry.lesion) for entry in self.overrides}
        return _by_bin_and_class(wanted)

    def named_bins(self) -> Iterator[tuple[tuple[str | int, ...], int, int]]:
        """Place, first and last z-bin of everything that names z-bins."""
        zbins = self.defaults.zbins
        if zbins != "all":
            for place, item in items(zbins):
                yield ("defaults", "zbins", *place), *ends(item)
        for index, entry in enumerate(self.overrides):
            yield ("overrides", index, "zbin"), entry.zbin, entry.zbin


Spec = DetailedSpec | CompactSpec
FORMS: dict[str, type[_Common]] = {"detailed": DetailedSpec, "compact": CompactSpec}


def _by_bin_and_class(wanted: Mapping[int, tuple[int, int]]) -> dict[tuple[int, int], int]:
    return {(z, label): wanted[z][label] for z in sorted(wanted) for label in (0, 1) if wanted[z][label]}


def items(zbins: Any) -> list[tuple[tuple[int, ...], Any]]:
    """The entries of `zbins`, each with its place in it."""
    return [((i,), item) for i, item in enumerate(zbins)] if isinstance(zbins, list) else [((), zbins)]


def ends(item: int | str) -> tuple[int, int]:
    """First and last z-bin of one entry of `zbins`."""
    first, _, last = str(item).partition("-")
    return int(first), int(last or first)


def _expanded(zbins: str | list) -> list[int]:
    return [z for _, item in items(zbins) for z in range(ends(item)[0], ends(item)[1] + 1)]
