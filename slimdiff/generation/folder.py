"""A folder of samples, three files a z-bin (`slimdiff.generation.samples`): drawn, or resumed.

Samples that fit what is requested are kept, missing ones are drawn, and a file of another configuration raises an error
before anything is drawn.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.data.priors import read_priors
from slimdiff.generation.generator import FixedRegion, Generator
from slimdiff.generation.requests import Request
from slimdiff.generation.samples import (
    ForeignFile,
    Run,
    SampleSettings,
    grouped,
    read_arrays,
    read_manifest,
    write_samples,
)
from slimdiff.redaction import redacted

REMEDY = "delete the file, or choose another folder"
AMOUNTS = frozenset({"per_bin_and_class", "counts", "where", "replicas"})
MACHINE = frozenset({"batch_size", "compile", "device", "precision"})
PER_SAMPLE = frozenset({"acquisition"})
COMPARED = frozenset(GenerationConfig.model_fields) - AMOUNTS - MACHINE - PER_SAMPLE
"""Keys that two files of one configuration share. The precision is compared as it was chosen."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of samples: what is requested, and what is in the folder."""

    stem: Path
    requests: list[Request]
    kept: dict[str, int] = field(default_factory=dict)
    """Sample id: its place in the archive of the folder."""
    runs: dict[str, Run] = field(default_factory=dict)
    """Sample id: how it was computed."""
    complete: bool = False

    @property
    def missing(self) -> list[int]:
        """Places in `requests` of what is to be drawn."""
        return [place for place, request in enumerate(self.requests) if request.id not in self.kept]


@dataclass(frozen=True)
class Job:
    """Samples to draw: with which checkpoint and settings, which ones, and into which folder."""

    checkpoint: Path
    config: GenerationConfig
    folder: Path
    requests: Mapping[str, Sequence[Request]]
    """By the name of their files, without ending (`bin_name`)."""
    priors: Path | None = None
    """File of the z-bin priors, required where `config.background` is prior."""
    fixed: Mapping[str, FixedRegion] | None = None
    """The fixed part of each request, by the same names."""
    attempts: int = 1
    """How often a sample with the class lesion is drawn until it has one."""
    not_drawn: Mapping[str, str] = field(default_factory=dict)
    """Why files lack samples of class 1, by the same names."""
    same_folder: bool = False
    """Whether all other files of the folder must have the same settings, too."""

    def generator(self) -> Generator:
        """The checkpoint, ready to draw. Raises FileNotFoundError or ValueError where something does not fit."""
        return Generator(self.checkpoint, self.config, read_priors(self.priors) if self.priors else None)

    def plans(self, generator: Generator) -> list[PlannedFile]:
        """The files of this job compared with those in the folder. Raises ForeignFile where these do not fit."""
        if self.same_folder:
            check_other_bins(generator, self.folder, self.requests)
        return [plan_file(generator, list(rows), self.folder / name) for name, rows in self.requests.items()]

    def draw(self, generator: Generator | None = None) -> list[dict]:
        """Draw what the folder lacks of the requests, file by file; a complete file is not touched.

        generator: that of an earlier job with the same checkpoint and settings.

        Returns the manifest rows of all files that were written.
        Raises ForeignFile where a file in the folder is of another configuration; nothing is drawn then.
        """
        generator = generator or self.generator()
        plans = self.plans(generator)
        generator.compile_for(sum(len(part.missing) for part in plans))
        written = []
        for part in plans:
            if part.complete:
                continue
            todo, name = part.missing, part.stem.name
            chosen, region = [part.requests[place] for place in todo], None
            if self.fixed is not None:
                region = tuple(values[todo] for values in self.fixed[name])
            images, masks = generator.draw(chosen, name, region)
            if self.attempts > 1:
                chosen = redraw_without_lesion(generator, chosen, region, images, masks, self.attempts)
            for place, request in zip(todo, chosen, strict=True):
                part.requests[place] = request
            if part.kept:
                images, masks = _with_kept(part, images, masks)
            settings = replace(sample_settings(generator, self.folder), not_drawn=self.not_drawn.get(name))
            runs = part.runs | {request.id: settings.runs[0] for request in chosen}
            if runs:
                settings = replace(settings, runs=grouped(runs))
            rows = _rows(generator, part.requests, masks)
            write_samples(part.stem, images, masks, rows, settings, self.fixed and self.fixed[name])
            written += rows
        return written


def plan_file(generator: Generator, requests: list[Request], stem: Path) -> PlannedFile:
    """Compare the requests with the files in the folder; raises ForeignFile where these are of other samples."""
    if not stem.with_suffix(".tsv").is_file():
        # An archive alone is what a killed process left: the manifest is written last.
        return PlannedFile(stem, requests)
    rows, settings = _read(stem)
    check_same_settings(
        settings, sample_settings(generator, stem.parent), generator.config, _settings_file(stem)
    )
    expected = {
        request.id: {
            "key": request.key,
            "z_bin": str(request.z_bin),
            "class": str(request.label),
            "replica": str(request.replica),
            "index": str(request.index),
            "acquisition": acquisition,
        }
        for request, acquisition in zip(requests, generator.acquisitions(requests), strict=True)
    }
    for line, row in enumerate(rows, start=2):
        where = f"{stem}.tsv, line {line}"
        if row["id"] not in expected:
            raise ForeignFile(
                f"{where}: sample {row['id']} is none of the {len(requests)} requested ones; request it, too, "
                f"{REMEDY}"
            )
        for column, value in expected[row["id"]].items():
            if row[column] != value:
                raise ForeignFile(f"{where}: {column}: expected {value}, found {row[column]}; {REMEDY}")
    check_archive(stem, len(rows), generator.card.store_size)
    names = [row["id"] for row in rows]
    kept = {name: place for place, name in enumerate(names)}
    complete = len(kept) == len(requests) and stem.with_suffix(".json").is_file()
    return PlannedFile(stem, requests, kept, settings.runs_of(names) if settings else {}, complete)


def check_same_settings(
    found: SampleSettings | None, expected: SampleSettings, config: GenerationConfig, path: Path
) -> None:
    """Raise ForeignFile where the settings in a file are those of another configuration."""
    if found is None:
        # A manifest without rows in the old form has no settings.
        return
    try:
        of_file = found.config()
    except ValueError as error:
        raise ForeignFile(
            f"{path}: these settings are not valid in this version: {error}; {REMEDY}"
        ) from None
    pairs = [(f"generation.{key}", getattr(of_file, key), getattr(config, key)) for key in sorted(COMPARED)]
    if config.precision != "auto":
        # Measured at every start, `auto` may choose differently.
        pairs += [("precision", run.precision, expected.runs[0].precision) for run in found.runs]
    names = ("checkpoint_sha256", "guide_sha256", "priors_sha256")
    pairs += [(name, getattr(found, name), getattr(expected, name)) for name in names]
    for key, value, requested in pairs:
        if value != requested:
            raise ForeignFile(
                f"{path}: {key}: expected {_shown(requested)}, found {_shown(value)}: samples of another "
                f"configuration; {REMEDY}"
            )


def check_archive(stem: Path, count: int, size: tuple[int, int]) -> None:
    """Raise ForeignFile where an archive does not hold `count` pairs (H, W)."""
    try:
        arrays = read_arrays(stem)
    except FileNotFoundError as error:
        raise ForeignFile(f"{stem}.tsv: its archive is missing: {error}; delete the manifest") from None
    shapes = {arrays[name].shape for name in ("images", "masks")}
    if shapes != {(count, *size)}:
        raise ForeignFile(
            f"{stem}.npz: expected {(count, *size)} (the rows of its manifest), found {sorted(shapes)}; delete both"
        )


def check_other_bins(generator: Generator, folder: Path, requested: Collection[str]) -> None:
    """Raise ForeignFile where files of the folder that are not requested (by name) are of another configuration."""
    for manifest in sorted(Path(folder).glob("zbin-*.tsv")):
        stem = manifest.with_suffix("")
        if stem.name not in requested:
            expected = sample_settings(generator, stem.parent)
            check_same_settings(_read(stem)[1], expected, generator.config, _settings_file(stem))


def _read(stem: Path) -> tuple[list[dict[str, str]], SampleSettings | None]:
    rows, settings = read_manifest(stem)
    if rows and "mode" in rows[0]:
        raise ForeignFile(f"{stem}.tsv: samples with a fixed mask or region; choose another folder")
    if rows and settings is None:
        raise ForeignFile(f"{stem}.json: not found; {REMEDY}")
    return rows, settings


def _settings_file(stem: Path) -> Path:
    path = stem.with_suffix(".json")
    return path if path.is_file() else stem.with_suffix(".tsv")


def _shown(value) -> str:
    return "null" if value is None else str(value)


def sample_settings(generator: Generator, folder: Path) -> SampleSettings:
    """The settings of samples that this generator draws into this folder."""
    precision = str(generator.precision).removeprefix("torch.")
    return SampleSettings(
        generation=redacted(generator.config.model_dump(mode="json")),
        checkpoint=_checkpoint_from(folder, generator.checkpoint),
        checkpoint_sha256=generator.sha256["checkpoint"],
        guide_sha256=generator.sha256["guide"],
        priors_sha256=generator.finishing.sha256,
        runs=[Run(generator.device.type, precision, generator.compiled)],
    )


def _checkpoint_from(folder: Path, checkpoint: Path) -> str:
    """The path of a checkpoint from a folder, or without its folders where these are of the machine (`redacted`)."""
    # Behind a symbolic link `..` leads elsewhere.
    checkpoint, folder = checkpoint.resolve(), folder.resolve()
    # Up to the root and down again, a relative path says as much as an absolute one.
    elsewhere = checkpoint.parts[:2] != folder.parts[:2]
    return redacted(str(checkpoint) if elsewhere else os.path.relpath(checkpoint, folder))


def _rows(generator: Generator, requests: list[Request], masks: np.ndarray) -> list[dict]:
    tau = generator.config.tau
    return [
        {
            "id": request.id,
            "key": request.key,
            "z_bin": request.z_bin,
            "class": request.label,
            "replica": request.replica,
            "index": request.index,
            "acquisition": acquisition,
            # In float16 the threshold itself would be rounded.
            "lesion_px": int((mask.astype(np.float32) > tau).sum()),
            "mode": request.mode,
            "source": request.source,
        }
        for request, acquisition, mask in zip(requests, generator.acquisitions(requests), masks, strict=True)
    ]


def _with_kept(part: PlannedFile, images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    arrays, missing = read_arrays(part.stem), part.missing
    places = [place for place, request in enumerate(part.requests) if request.id in part.kept]
    source = [part.kept[part.requests[place].id] for place in places]
    whole = []
    for name, drawn in (("images", images), ("masks", masks)):
        values = np.empty((len(part.requests), *drawn.shape[1:]), np.float16)
        values[missing], values[places] = drawn, arrays[name][source]
        whole.append(values)
    return whole[0], whole[1]


def redraw_without_lesion(
    generator: Generator,
    requests: Sequence[Request],
    fixed: FixedRegion | None,
    images: np.ndarray,
    masks: np.ndarray,
    attempts: int,
) -> list[Request]:
    """Draw the samples of class lesion that have none again, from other noise, into images and masks.

    Returns the requests that the samples are of then. After the last attempt a sample stays as it is.
    """
    chosen = list(requests)
    for attempt in range(1, attempts):
        lesion = (masks.astype(np.float32) > generator.config.tau).any(axis=(1, 2))
        places = [place for place, request in enumerate(requests) if request.label == 1 and not lesion[place]]
        if not places:
            break
        for place in places:
            chosen[place] = replace(requests[place], key=f"{requests[place].key}/attempt={attempt}")
        region = None if fixed is None else tuple(values[places] for values in fixed)
        drawn = generator.draw([chosen[place] for place in places], f"attempt {attempt + 1}", region)
        images[places], masks[places] = drawn
    return chosen
