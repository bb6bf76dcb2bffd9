"""Samples from a JSON specification: how many of which z-bin and class, from which checkpoint, into which folder.

Two forms, chosen by `format`: `detailed` lists z-bins with their counts, `compact` gives the counts of many z-bins at
once and may override single ones. Control is class 0 (no lesion), lesion is class 1. Paths are relative to the current
folder. Every problem is reported with its place, all of them at once, before anything is written (docs/method.md, F7).

`python -m slimdiff.generation.spec` writes the JSON schema of a specification for editors.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from slimdiff.config import ConfigError, Study, load_study
from slimdiff.config.base import PositiveInt, Section, Seed, explain, shown
from slimdiff.config.generation import GenerationConfig
from slimdiff.config.loading import load_object
from slimdiff.data.priors import read_priors
from slimdiff.data.store import few_lesion_subjects
from slimdiff.devices import pick_device
from slimdiff.diffusion.chain import sigmas_for
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.files import write_text
from slimdiff.generation.folder import Job
from slimdiff.generation.generator import check_guide, check_settings, guide_path
from slimdiff.generation.requests import requests_of_bins
from slimdiff.generation.samples import bin_name
from slimdiff.model.checkpoint import ModelCard, gaussian_above, read_card
from slimdiff.model.prior import check_priors

SCHEMA = Path("workflow/schemas/generation_spec.schema.json")
MAX_BIN = 9_999
BIN_RANGE = r"^([0-9]{1,4})-([0-9]{1,4})$"
# The shell expands ~, this program does not: it would make a folder of that name.
PATH = r"^[^~\s\x00][^\x00]*$"
# Also the temporary names that a killed process left.
SAMPLE_FILE = re.compile(r"\.?(zbin-\d{2,})\.(npz|tsv|json)(\..+)?")


def _expect(expected: str, test: Callable[[Any], Any]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not test(value):
            raise ValueError(f"expected {expected}")
        return value

    return BeforeValidator(check)


def _bins(item: Any) -> range:
    """The z-bins of a number or of a range "a-b"; empty for anything else."""
    if type(item) is int and 0 <= item <= MAX_BIN:
        return range(item, item + 1)
    match = re.fullmatch(BIN_RANGE, item) if isinstance(item, str) else None
    return range(int(match[1]), int(match[2]) + 1) if match else range(0)


def _as_read(schema: dict) -> None:
    """The schema allows comments, and has no null for a key that was left out: a null in the file is an error."""
    schema["patternProperties"] = {"^_": {}}
    for field in schema["properties"].values():
        for key in {"title", "default"} & set(field):
            del field[key]


HEIGHTS = {"slice": "slices", "mm": "heights in mm", "relative": "relative heights"}
"""Names of `slices.height` in the plan."""
_RANGE = 'a rising range such as "0-9"'
_ITEM = _expect(f"a z-bin from 0 to {MAX_BIN} or {_RANGE}", _bins)
_TEXT = _expect(
    f'"all", {_RANGE}, or a list of z-bins and ranges',
    lambda zbins: zbins == "all" or (isinstance(zbins, str) and _bins(zbins)),
)
# A million slices of 160 x 160 px are 100 GB.
Amount = Annotated[int, Field(ge=0, le=1_000_000)]
BinNumber = Annotated[int, Field(ge=0, le=MAX_BIN)]
BinRange = Annotated[str, Field(pattern=BIN_RANGE)]
BinList = Annotated[list[Annotated[BinNumber | BinRange, _ITEM]], Field(min_length=1)]
BinText = Annotated[Literal["all"] | BinRange, _TEXT]
_PATH = _expect(
    "a path that begins with neither a space nor ~, which is not expanded here",
    lambda path: isinstance(path, str) and re.match(PATH, path),
)
PathText = Annotated[str, _PATH, Field(json_schema_extra={"pattern": PATH})]


class _Part(Section):
    model_config = ConfigDict(json_schema_extra=_as_read)


class BinCounts(_Part):
    """Samples of one z-bin."""

    zbin: BinNumber
    """The z-bin, counted from 0."""
    control: Amount
    """Samples of class 0, without lesion."""
    lesion: Amount
    """Samples of class 1, with lesion."""


class Defaults(_Part):
    """Samples of every z-bin in `zbins`."""

    control: Amount
    """Samples of class 0, without lesion, of each z-bin."""
    lesion: Amount
    """Samples of class 1, with lesion, of each z-bin."""
    zbins: Annotated[
        Annotated[BinList, Tag("[list]")] | Annotated[BinText, Tag("[text]")],
        Discriminator(lambda value: "[list]" if isinstance(value, list) else "[text]"),
    ]
    """`all` of the checkpoint, a range "a-b" with both ends, or a list of z-bins and ranges."""


class _Common(_Part):
    checkpoint_path: PathText
    """The model.safetensors to draw from, relative to the current folder."""
    output_dir: PathText
    """Folder of the samples, relative to the current folder: new, empty, or begun by this specification."""
    config_path: PathText = Field(default=None)
    """A study (YAML or JSON) whose section `generation` sets how to draw; without it the defaults of that section hold.
    Its numbers of samples are not used."""
    seed: Seed = Field(default=None)
    """Seed of the per-sample noise streams, instead of generation.seed."""
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default=None)
    """Where to draw, instead of generation.device."""
    replicas: Annotated[PositiveInt, Field(le=1000)] = Field(default=None)
    """Independent repetitions of the whole set, instead of generation.replicas."""
    priors_path: PathText = Field(default=None)
    """The z-bin priors (npz) of the fold, required where generation.background is `prior`."""
    editor_schema: str = Field(default=None, alias="$schema")
    """Address of this schema, for editors; not read."""


class DetailedSpec(_Common):
    """A specification that lists its z-bins."""

    format: Literal["detailed"]
    """`detailed`: `samples` lists the z-bins."""
    samples: Annotated[list[BinCounts], Field(min_length=1)]
    """z-bins with their counts, each z-bin once."""

    def counts(self, n_bins: int) -> dict[tuple[int, int], int]:
        """{(z-bin, class): samples of one replica}, in order and without zeros."""
        return _counts({entry.zbin: entry for entry in self.samples})


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
        named = [z for _, _, bins in _named_bins(self.model_dump(include={"defaults"})) for z in bins]
        every = dict.fromkeys(named or range(n_bins), self.defaults)
        return _counts(every | {entry.zbin: entry for entry in self.overrides})


Spec = DetailedSpec | CompactSpec
FORMS: dict[str, type[Spec]] = {"detailed": DetailedSpec, "compact": CompactSpec}


def _counts(amounts: Mapping[int, Defaults | BinCounts]) -> dict[tuple[int, int], int]:
    both = {z: (amounts[z].control, amounts[z].lesion) for z in sorted(amounts)}
    return {(z, label): number for z, pair in both.items() for label, number in enumerate(pair) if number}


def _named_bins(values: Mapping) -> Iterator[tuple[str, str, range]]:
    """Everything that names z-bins, valid or not: its list, its place and its z-bins."""
    defaults = values.get("defaults")
    zbins = defaults.get("zbins", "all") if isinstance(defaults, Mapping) else "all"
    if isinstance(zbins, list):
        yield from (("zbins", f"defaults.zbins[{i}]", _bins(item)) for i, item in enumerate(zbins))
    elif zbins != "all":
        yield "zbins", "defaults.zbins", _bins(zbins)
    for key in ("samples", "overrides"):
        for i, entry in enumerate(values[key] if isinstance(values.get(key), list) else []):
            z_bin = entry.get("zbin") if isinstance(entry, Mapping) else None
            yield key, f"{key}[{i}].zbin", _bins(z_bin if type(z_bin) is int else None)


def load_spec(path: str | Path) -> Spec:
    """Read a specification.

    Raises ConfigError with one line a problem: `spec.json: samples[3].control: expected a whole number, found 2.5`.
    """
    return spec_from_values(load_object(Path(path)), Path(path))


def spec_from_values(values: Mapping[str, Any], source: Path = Path("specification")) -> Spec:
    """Make a specification of a mapping; `source` is named in errors, which are those of `load_spec`."""
    problems, spec, form = [], None, values.get("format")
    if form not in list(FORMS):
        found = shown(form) if "format" in values else "no such key"
        problems.append(f'format: expected "detailed" or "compact", found {found}')
        # Its keys decide which rules the rest has to follow.
        form = "detailed" if "samples" in values else "compact"
    try:
        spec = FORMS[form].model_validate({**values, "format": form})
    except ValidationError as error:
        problems += explain(error, FORMS[form]).split("\n")
    problems += _clashes(values)
    if not problems and not spec.counts(MAX_BIN + 1):
        key = "samples" if form == "detailed" else "defaults"
        problems.append(f"{key}: expected at least one count above 0, found none")
    _refuse(problems, source)
    return spec


def _refuse(problems: Sequence[str], source: Path) -> None:
    if problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in dict.fromkeys(problems)))


def _clashes(values: Mapping) -> Iterator[str]:
    """Contradictions between entries, from the raw values, so that no other problem hides them."""
    named = list(_named_bins(values))
    zbins = [bins for key, _, bins in named if key == "zbins"]
    seen: dict[tuple[str, int], str] = {}
    for key, where, bins in named:
        if again := [z for z in bins if (key, z) in seen]:
            yield f"{where}: duplicate {_names(again)}, also in {seen[key, again[0]]}; keep one"
        elif key == "overrides" and zbins and all(zbins) and bins and not any(bins[0] in z for z in zbins):
            yield f"{where}: expected a z-bin of defaults.zbins, found {_names(bins)}"
        for z in bins:
            seen.setdefault((key, z), where)


def _names(bins: Sequence[int]) -> str:
    return f"z-bin {bins[0]}" if len(bins) == 1 else f"z-bins {bins[0]} to {bins[-1]}"


@dataclass(frozen=True)
class Plan:
    """What a specification comes to."""

    checkpoint: Path
    card: ModelCard
    generation: GenerationConfig
    """With the specification's seed, device and replicas in it."""
    counts: dict[tuple[int, int], int]
    """(z-bin, class): samples a replica, in order and without zeros."""
    output_dir: Path
    priors: Path | None
    notes: tuple[str, ...] = ()
    """What is allowed, but may surprise."""

    @property
    def total(self) -> int:
        """Samples in all."""
        return sum(self.counts.values()) * self.generation.replicas

    def job(self) -> Job:
        """The samples, ready to draw."""
        z_bins = sorted({z_bin for z_bin, _ in self.counts})
        requests = requests_of_bins(self.generation, self.card.fold, self.card.variant, z_bins, self.counts)
        return Job(self.checkpoint, self.generation, self.output_dir, requests, self.priors)

    def describe(self, verbose: bool = False) -> str:
        """The plan as text: a line a z-bin, then totals; with `verbose` first the checkpoint and the settings."""
        settings, (height, width) = self.generation, self.card.store_size
        evaluations = self.total * settings.evaluations * (1 if settings.guidance == 1 else 2)
        at_most = "" if settings.guidance == 1 else "up to "
        # Images and masks, float16.
        size = self.total * 2 * height * width * 2
        power = min(4, (len(str(size)) - 1) // 3)
        bins = sorted({z_bin for z_bin, _ in self.counts})
        files = " ... ".join(dict.fromkeys(f"zbin-{z_bin:02d}" for z_bin in (bins[0], bins[-1])))
        rows = [(z, self.counts.get((z, 0), 0), self.counts.get((z, 1), 0)) for z in bins]
        rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
        lines = list(self._details()) if verbose else []
        lines.append(f"{'z-bin':>7}{'control':>11}{'lesion':>11}{'replicas':>10}{'samples':>11}")
        for z, control, lesion in rows:
            samples = (control + lesion) * settings.replicas
            lines.append(f"{z:>7}{control:>11}{lesion:>11}{settings.replicas:>10}{samples:>11}")
        lines += [
            "",
            f"{self.total} samples in {len(bins)} z-bins, {at_most}{evaluations} network evaluations, about "
            f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]} on disk",
            f"into {self.output_dir}: {files}, .npz (images and masks), .tsv (manifest) and .json "
            "(settings) each",
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def _details(self) -> Iterator[str]:
        card, (height, width) = self.card, self.card.store_size
        yield f"checkpoint  {self.checkpoint}"
        yield f"            study {card.study}, variant {card.variant}, fold {card.fold}, step {card.step}"
        yield (
            f"            {card.diffusion['prediction']} network, {card.n_bins} z-bins, {width} x {height} px of "
            f"{card.spacing_mm:g} mm, {HEIGHTS[card.height]} {card.z_range[0]:g} to {card.z_range[1]:g}"
        )
        if card.data.acquisitions:
            yield f"            acquisitions {', '.join(card.data.acquisitions)}"
        settings = self.generation.model_dump(exclude={"per_bin_and_class", "counts", "where"})
        for key, value in (settings | ({"priors": self.priors} if self.priors else {})).items():
            yield f"{key:<19} {'null' if value is None else value}"
        yield ""


def plan(spec: Spec, source: Path) -> Plan:
    """Compare a specification with the files that it names, without drawing; `source` is its own file, for the errors.

    Raises ConfigError with one line a problem, all of them at once.
    """
    problems: list[str] = []

    @contextmanager
    def at(key: str, *more: type[Exception]):
        try:
            yield
        except (OSError, ValueError, RuntimeError, *more) as error:
            problems.extend(f"{key}: {line}" for line in str(error).split("\n"))

    checkpoint, output_dir = Path(spec.checkpoint_path), Path(spec.output_dir)
    priors = Path(spec.priors_path) if spec.priors_path else None
    card, settings, notes = None, None, ()
    with at("checkpoint_path", TypeError, KeyError, AttributeError):
        card = read_card(checkpoint)
    with at("config_path", ImportError):
        # A checkpoint has its own settings in it, so the study may be incomplete.
        study = load_study(spec.config_path, complete=False) if spec.config_path else Study()
        own = {key: getattr(spec, key) for key in {"seed", "device", "replicas"} & spec.model_fields_set}
        settings = study.generation.model_copy(update={"counts": None, **own})
    if spec.device or settings:
        with at("device" if spec.device else "config_path"):
            pick_device(spec.device or settings.device)
    if settings:
        with at("priors_path"):
            _check_priors(priors, settings, card)
    if card:
        for _, where, bins in _named_bins(spec.model_dump()):
            if bins[-1] >= card.n_bins:
                allowed = f"z-bins 0 to {card.n_bins - 1} of the checkpoint"
                problems.append(f"{where}: expected {allowed}, found {_names(bins)}")
    counts = spec.counts(card.n_bins) if card else {}
    if card and not counts:
        problems.append("overrides: expected at least one count above 0, found none")
    if card and settings:
        problems += [f"config_path: {text}" for text in _misfits(study, card, checkpoint)]
        with at("config_path"):
            check_settings(settings, card, checkpoint)
        with at("config_path"):
            if guide := guide_path(checkpoint, settings):
                check_guide(guide, checkpoint, card)
        with at("config_path"):
            schedule = make_schedule(card.diffusion["schedule"], card.diffusion["timesteps"])
            chosen = (settings.sampler, settings.spacing, settings.evaluations, gaussian_above(card))
            sigmas_for(schedule, *chosen, quiet=True)
        notes = tuple(_surprises(study, card, counts))
    whole = None if problems else Plan(checkpoint, card, settings, counts, output_dir, priors, notes)
    with at("output_dir"):
        _check_folder(output_dir, whole)
    _refuse(problems, source)
    return whole


def _misfits(study: Study, card: ModelCard, checkpoint: Path) -> Iterator[str]:
    """Keys that the study sets itself and that contradict the checkpoint."""
    height, width = card.store_size
    for section, key, found, trained in (
        ("slices", "n_bins", study.slices.n_bins, card.n_bins),
        ("preprocess", "grid", study.preprocess.grid[:2], (width, height)),
        ("preprocess", "spacing_mm", study.preprocess.pixel_mm, card.spacing_mm),
    ):
        if key in getattr(study, section).model_fields_set and not np.allclose(found, trained):
            yield f"{section}.{key}: expected {shown(trained)}, as {checkpoint} was trained with, found {shown(found)}"


def _surprises(study: Study, card: ModelCard, counts: Mapping[tuple[int, int], int]) -> Iterator[str]:
    few = few_lesion_subjects(card.data.lesion_subjects or ())
    if drawn := [z_bin for z_bin in few if counts.get((z_bin, 1))]:
        yield (
            f"z-bins {', '.join(map(str, drawn))}: fewer than two training subjects have a lesion there, so drawn "
            "lesions copy one subject, or those of other z-bins"
        )
    if study.generation.counts:
        yield "generation.counts of the study has no effect: the specification gives the counts"
    if (study.variants.get(card.variant) or {}).get("generation"):
        yield f"the generation settings of the study's variant {card.variant} have no effect in a specification"


def _check_priors(priors: Path | None, settings: GenerationConfig, card: ModelCard | None) -> None:
    if settings.background != "prior":
        if priors:
            raise ValueError(
                f"{priors}: no effect with generation.background {settings.background}; remove it"
            )
        return
    if priors is None:
        raise ValueError("this key is required with generation.background prior (priors/fold-*.npz)")
    maps = read_priors(priors)
    if maps.dtype != bool:
        raise ValueError(f"{priors}: expected an array of bool, found {maps.dtype}")
    if card:
        check_priors(maps, card.n_bins, tuple(card.store_size))


def _check_folder(folder: Path, whole: Plan | None) -> None:
    """Raise ValueError where samples cannot go there; without a plan, only names are compared."""
    above = (folder, *folder.absolute().parents)
    nearest = next(path for path in above if path.exists() or path.is_symlink())
    if not nearest.is_dir():
        raise ValueError(f"{nearest}: expected a folder, found a file")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise ValueError(f"{nearest}: no permission to write to this folder")
    if nearest != folder:
        return
    own = whole and {bin_name(z) for z, _ in whole.counts}
    matches = {path.name: SAMPLE_FILE.fullmatch(path.name) for path in sorted(folder.iterdir())}
    foreign = [name for name, match in matches.items() if not match or (own and match[1] not in own)]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        found = f"found {', '.join(foreign[:3])}{more}"
        raise ValueError(f"{folder}: expected only samples of this specification, {found}")
    if whole and matches:
        # The same comparison as before drawing.
        job = whole.job()
        job.plans(job.generator())


def spec_schema() -> dict:
    """JSON schema (2020-12) of both forms."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "slimdiff generation specification",
        **TypeAdapter(Annotated[Spec, Field(discriminator="format")]).json_schema(),
    }


if __name__ == "__main__":
    write_text(SCHEMA, json.dumps(spec_schema(), indent=1, sort_keys=True) + "\n")
