"""A specification against the files that it names: what would be drawn, or why it cannot be.

Nothing is written, no network is built and no device asked for, so that a laptop can judge what a cluster will draw.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slimdiff.config import ConfigError, Study, load_study
from slimdiff.config.generation import GenerationConfig
from slimdiff.diffusion.schedule import leading, make_schedule, sampling_sigmas
from slimdiff.files import sha256, written
from slimdiff.generation.finishing import priors_hash, read_priors
from slimdiff.generation.folder import check_archive, read_manifest, settings_of, stem_of
from slimdiff.generation.generator import check_guide, check_settings, guide_path
from slimdiff.generation.requests import requests_of_bin
from slimdiff.generation.spec_forms import Spec
from slimdiff.generation.spec_plan import Plan
from slimdiff.generation.strict_json import Problem, SpecError
from slimdiff.model.checkpoint import ModelCard, read_card
from slimdiff.model.prior import check_priors

# Also the temporary names that a killed process left.
_SAMPLE_FILE = re.compile(r"\.?(zbin-\d{2,})\.(npz|tsv)(\..+)?")
_OVERRIDING = ("seed", "device", "replicas")


def plan(spec: Spec, source: Path) -> Plan:
    """Compare a specification with the files that it names; `source` is its own, for the messages.

    Raises SpecError with one line a problem, all of them at once.
    """
    problems: list[Problem] = []

    def tell(place: str, text: str | Exception) -> None:
        problems.extend(Problem((place,), line) for line in str(text).split("\n"))

    checkpoint, card = Path(spec.checkpoint_path), None
    try:
        card = read_card(checkpoint)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        tell("checkpoint_path", error)
    study, notes = None, ()
    try:
        study = _read_study(spec.config_path)
    except (OSError, ConfigError) as error:
        tell("config_path", error)
    generation, priors = None, None
    if study:
        told = {key: getattr(spec, key) for key in _OVERRIDING if getattr(spec, key) is not None}
        # How many is the specification's own.
        amount = {"counts": None, "per_bin_and_class": GenerationConfig().per_bin_and_class}
        generation = study.generation.model_copy(update={**amount, **told})
        priors = Path(spec.priors_path) if spec.priors_path else None
        for text in _priors_misfit(priors, generation, card):
            tell("priors_path", text)
    if card:
        problems += _bins_misfit(spec, card)
    if card and study:
        for text in _study_misfit(study, generation, card, checkpoint):
            tell("config_path", text)
        notes = tuple(_surprises(study, card))
    counts = spec.counts(card.n_bins) if card else {}
    if card and not counts:
        tell("overrides", "they leave no sample at all; one count above 0 is wanted")
    output_dir = Path(spec.output_dir)
    whole = None if problems else Plan(checkpoint, card, generation, counts, output_dir, priors, notes)
    try:
        for text in _folder_in_use(output_dir, whole):
            tell("output_dir", text)
    except OSError as error:
        tell("output_dir", error)
    if problems:
        raise SpecError.of(source, problems)
    return whole


def _read_study(config_path: str | None) -> Study:
    if config_path is None:
        return Study()
    path = Path(config_path)
    if path.is_dir():
        raise ConfigError(f"{path}: a folder; the file of a study is wanted")
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        # A checkpoint says by itself what it is, so the study need not be whole.
        return load_study(path, complete=False)
    except ImportError:
        raise ConfigError(f"{path}: YAML needs the package pyyaml; a JSON file needs none") from None


def _bins_misfit(spec: Spec, card: ModelCard) -> Iterator[Problem]:
    for place, first, last in spec.named_bins():
        if last >= card.n_bins:
            found = f"z-bin {first}" if first == last else f"z-bins {first} to {last}"
            yield Problem(place, f"found {found}; the checkpoint has z-bins 0 to {card.n_bins - 1}")


def _study_misfit(
    study: Study, generation: GenerationConfig, card: ModelCard, checkpoint: Path
) -> Iterator[str]:
    """Where a study's own words contradict the checkpoint; what it leaves to the defaults says nothing."""
    if "n_bins" in study.slices.model_fields_set and study.slices.n_bins != card.n_bins:
        yield f"slices.n_bins is {study.slices.n_bins}, but {checkpoint} was trained with {card.n_bins}"
    width, height, _ = study.preprocess.grid
    if "grid" in study.preprocess.model_fields_set and (height, width) != tuple(card.store_size):
        yield (
            f"preprocess.grid has slices of {width} x {height} px, but {checkpoint} was trained on "
            f"{card.store_size[1]} x {card.store_size[0]}"
        )
    spacing = study.preprocess.spacing_mm
    if "spacing_mm" in study.preprocess.model_fields_set and not np.isclose(spacing, card.spacing_mm):
        yield f"preprocess.spacing_mm is {spacing:g}, but {checkpoint} was trained on {card.spacing_mm:g}"
    try:
        check_settings(generation, card, checkpoint)
    except ValueError as error:
        yield str(error)
    if guide := guide_path(checkpoint, generation):
        try:
            check_guide(guide, checkpoint, card)
        except (OSError, ValueError) as error:
            yield str(error)
    try:
        schedule = make_schedule(card.diffusion["schedule"], card.diffusion["timesteps"])
        if generation.sampler == "ddim_ref":
            leading(schedule, generation.evaluations)
        else:
            sampling_sigmas(schedule, generation.evaluations, generation.spacing)
    except ValueError as error:
        yield f"generation: {error}"


def _surprises(study: Study, card: ModelCard) -> Iterator[str]:
    if study.generation.counts:
        yield "the study's generation.counts has no say in a specification"
    own = study.variants.get(card.variant) or {}
    if own.get("generation"):
        yield (
            f"the study's variant {card.variant} has its own generation settings; a specification takes the "
            "study's section generation alone"
        )


def _priors_misfit(
    priors: Path | None, generation: GenerationConfig, card: ModelCard | None
) -> Iterator[str]:
    if generation.background != "prior":
        if priors:
            yield f"found {priors}, but generation.background is {generation.background}, which reads no priors"
    elif priors is None:
        yield "missing, but generation.background is prior; the fold's priors/fold-*.npz is wanted"
    else:
        try:
            maps = read_priors(priors)
            if maps.dtype != bool:
                raise ValueError(f"{priors}: priors are {maps.dtype}; bool is wanted")
        except (OSError, ValueError) as error:
            yield str(error)
        except Exception as error:  # what zipfile, zlib and numpy raise at a file that only looks like an npz
            yield f"{priors}: not a file of z-bin priors: {error}"
        else:
            yield from _priors_of_other_data(priors, maps, card)


def _priors_of_other_data(priors: Path, maps: np.ndarray, card: ModelCard | None) -> Iterator[str]:
    if card:
        try:
            check_priors(maps, card.n_bins, tuple(card.store_size))
        except ValueError as error:
            yield f"{priors}: {error}"


def _folder_in_use(folder: Path, whole: Plan | None) -> Iterator[str]:
    """Why samples cannot go there; without a whole plan only what needs none is looked at."""
    existing = next(
        path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink()
    )
    if not existing.is_dir():
        yield f"{existing}: a file; a folder is wanted"
    elif not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        yield f"{existing}: a folder that may not be written to"
    elif existing == folder:
        names = sorted(path.name for path in folder.iterdir())
        wanted = whole and {stem_of(folder, z_bin).name for z_bin, _ in whole.counts}
        foreign = [
            name
            for name in names
            if not (match := _SAMPLE_FILE.fullmatch(name)) or (wanted and match[1] not in wanted)
        ]
        if foreign:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            yield (
                f"{folder}: in use, found {', '.join(foreign[:3])}{more}; a new or empty folder is wanted, or one "
                "with nothing but samples of this specification"
            )
        elif whole:
            yield from _other_samples(whole)


def _other_samples(whole: Plan) -> Iterator[str]:
    """A sample there that this plan would not draw."""
    card, settings = whole.card, whole.generation
    shared = {key: str(written(value)) for key, value in settings_of(settings).items()}
    if settings.precision == "auto":
        # Chosen when it is drawn.
        del shared["precision"]
    if whole.priors:
        shared["priors_sha256"] = priors_hash(read_priors(whole.priors))
    if guide := guide_path(whole.checkpoint, settings):
        shared["guide_sha256"] = sha256(guide)
    for z_bin in sorted({z_bin for z_bin, _ in whole.counts}):
        manifest = stem_of(whole.output_dir, z_bin).with_suffix(".tsv")
        if not manifest.exists():
            continue
        shared["checkpoint_sha256"] = shared.get("checkpoint_sha256") or sha256(whole.checkpoint)
        requests = requests_of_bin(settings, card.fold, card.variant, z_bin, whole.counts)
        keys = {request.id: request.key for request in requests}
        try:
            rows = read_manifest(manifest)
            check_archive(manifest.with_suffix(".npz"), len(rows), card.store_size)
        except (OSError, ValueError) as error:
            yield str(error)
            return
        for line, row in enumerate(rows, start=2):
            wanted = {"key": keys.get(row["id"]), **shared}
            other = next((key for key, value in wanted.items() if row[key] != value), None)
            if other is None:
                continue
            here = f"{other} is {row[other]}, this specification has {wanted[other]}"
            if row["id"] not in keys:
                here = f"sample {row['id']} is none of this specification"
            yield f"{manifest}, line {line}: {here}; another folder is wanted"
            return
