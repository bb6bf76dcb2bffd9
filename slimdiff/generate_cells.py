"""What `slimdiff-generate` does: a study's cells, a folder from one checkpoint, samples around something given, or
single samples again."""

import argparse
import sys
from pathlib import Path

from slimdiff.config import ConfigError, Study, load_study
from slimdiff.config.generation import GenerationConfig
from slimdiff.generation.conditional import Given, draw_around, given_mask, given_surroundings
from slimdiff.generation.finishing import read_priors
from slimdiff.generation.folder import check_others, fill
from slimdiff.generation.generator import Generator
from slimdiff.generation.remake import remake
from slimdiff.generation.requests import CLASSES, counts_of, parse_bins

FEWEST_AROUND = 40
"""Evaluations of a sample around something given, unless the configuration names the sampler."""
ATTEMPTS = 8
"""How often a lesion is looked for in a region before the sample stays without one."""
OWN_FOLDER = ("classes", "n_per_condition", "seed", "mask", "image", "region")


def generate_cells(options: argparse.Namespace) -> None:
    """Draw what the command line asks for; raises ConfigError where its options do not fit together."""
    if options.from_manifest:
        _again(options)
        return
    if options.id:
        raise ConfigError("--id names a sample of a manifest: give --from-manifest too")
    if not options.config:
        raise ConfigError("--config (a study) or --from-manifest is wanted")
    # A checkpoint says by itself what it is, whatever the study's sections of model and training say.
    study = load_study(options.config, complete=options.ckpt is None)
    if (options.ckpt is None) != (options.out_dir is None):
        raise ConfigError("--ckpt and --out_dir belong together")
    if options.ckpt:
        _folder(options, study)
        return
    given = [name for name in OWN_FOLDER if getattr(options, name) is not None]
    if given:
        raise ConfigError(
            f"--{given[0]} would make other samples than the study's: give --ckpt and --out_dir too"
        )
    _cells(options, study)


def _cells(options: argparse.Namespace, study: Study) -> None:
    for variant, fold in study.cells(options.variant, options.fold):
        config = _on(study.variant(variant).generation, options)
        priors = Path(options.priors or study.paths.prior(fold)) if config.background == "prior" else None
        generator = Generator(
            study.paths.model(variant, fold) / "model.safetensors",
            config,
            read_priors(priors) if priors else None,
        )
        n_bins = generator.card.n_bins
        fill(
            generator,
            counts_of(config, n_bins),
            study.paths.samples(variant, fold),
            parse_bins(options.z_bins or "all", n_bins),
        )


def _folder(options: argparse.Namespace, study: Study) -> None:
    if options.fold is not None:
        raise ConfigError("--fold has no effect with --ckpt, which is of one fold")
    out_dir = Path(options.out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"--out_dir {out_dir}: a file; a folder is wanted")
    # A study's own variant may draw in its own way.
    part = study.variant(options.variant) if options.variant else study
    config = _on(part.generation, options)
    generator = Generator(Path(options.ckpt), config, read_priors(options.priors) if options.priors else None)
    if options.mask or options.image or options.region:
        mode = "mask_to_image" if options.mask else "inpaint"
        each = config.replicas * (1 if options.n_per_condition is None else options.n_per_condition)
        attempts = ATTEMPTS if mode == "inpaint" else 1
        without = draw_around(generator, _given(options, generator), each, mode, out_dir, attempts)
        if without:
            print(f"{without} samples have no lesion after {attempts} attempts each", file=sys.stderr)
        return
    n_bins = generator.card.n_bins
    counts, z_bins = counts_of(config, n_bins), parse_bins(options.z_bins or "all", n_bins)
    classes = _classes(options.classes or "all")
    if options.n_per_condition is not None:
        counts = {(z_bin, label): options.n_per_condition for z_bin in z_bins for label in CLASSES}
    counts = {cell: number for cell, number in counts.items() if cell[0] in z_bins and cell[1] in classes}
    if not any(counts.values()):
        raise ConfigError("not one sample is asked for; see --z_bins, --classes and --n_per_condition")
    check_others(generator, out_dir, z_bins)
    fill(generator, counts, out_dir, z_bins)


def _on(config: GenerationConfig, options: argparse.Namespace) -> GenerationConfig:
    """The section with what the command line says instead."""
    said = {name: getattr(options, name) for name in ("seed", "device") if getattr(options, name) is not None}
    if (options.mask or options.image) and "sampler" not in config.model_fields_set:
        # A stochastic chain brings what is drawn and what is given together; docs/sampling.md has the numbers.
        said |= {"sampler": "dpmpp_2m_sde", "evaluations": max(FEWEST_AROUND, config.evaluations)}
        print(
            f"sampler: dpmpp_2m_sde, {said['evaluations']} evaluations (a study that names one has its own way)"
        )
    if options.priors and config.background != "prior":
        raise ConfigError(f"--priors has no effect: generation.background is {config.background}")
    values = {**config.model_dump(exclude_defaults=True), **said}
    if options.n_per_condition is not None:
        values.pop("counts", None)
    return GenerationConfig.model_validate(values)


def _classes(text: str) -> list[int]:
    names = {"0": 0, "1": 1, "control": 0, "lesion": 1}
    parts = ["0", "1"] if text == "all" else text.split(",")
    chosen = [names.get(part.strip()) for part in parts]
    if None in chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"--classes {text!r}; 0 (control), 1 (lesion), both as 0,1, each once")
    return chosen


def _given(options: argparse.Namespace, generator: Generator) -> list[Given]:
    from slimdiff.generation.conditional import SliceGrid, read_image_slice, read_mask_slices

    if options.mask and (options.image or options.region):
        raise ConfigError(
            "--mask draws images to masks; --image with --region draws lesions into it: not both"
        )
    if bool(options.image) != bool(options.region):
        raise ConfigError("--image and --region belong together")
    if options.classes is not None:
        raise ConfigError("--classes: the class follows from what is given")
    card = generator.card
    own_bin = None
    if options.z_bins:
        z_bins = parse_bins(options.z_bins, card.n_bins)
        if len(z_bins) > 1:
            raise ConfigError(f"--z_bins {options.z_bins}: what is given has one height; name one z-bin")
        own_bin = z_bins[0]
    grid = SliceGrid(card.store_size, card.spacing_mm, card.z_range, card.n_bins)
    if options.mask:
        slices = [part for path in options.mask for part in read_mask_slices(path, grid, own_bin)]
        return [given_mask(mask, z_bin, name) for name, z_bin, mask in slices]
    return [
        given_surroundings(
            read_image_slice(options.image, grid, name),
            region,
            z_bin,
            f"{options.image} in {name}",
        )
        for name, z_bin, region in read_mask_slices(options.region, grid, own_bin)
    ]


def _again(options: argparse.Namespace) -> None:
    alien = [
        name
        for name in (*OWN_FOLDER, "z_bins", "config", "variant", "fold")
        if getattr(options, name) is not None
    ]
    if alien:
        raise ConfigError(
            f"--{alien[0]} has no part in --from-manifest: the row says how its sample was made"
        )
    if not options.out_dir:
        raise ConfigError("--from-manifest: say where the samples go (--out_dir)")
    same = remake(
        Path(options.from_manifest),
        options.id or [],
        Path(options.out_dir),
        options.ckpt,
        options.priors,
        options.device,
    )
    words = {
        True: "the same bits as in the archive",
        False: "OTHER BITS than in the archive",
        None: "no archive",
    }
    for name, found in same.items():
        print(f"{Path(options.out_dir) / name}.npz: {words[found]}")
    if False in same.values():
        raise RuntimeError("other bits than in the archive: another processor, device or version of torch")
