"""Draw samples: a study's, or from --ckpt into --out-dir, for --mask, into --region of --image, or one sample again.

Without --ckpt and --from-manifest, the samples of the study's own variants and folds are drawn into its folder.
"""

import argparse
import sys
from pathlib import Path

from slimdiff.config import ConfigError, StudyPaths
from slimdiff.config.generation import GenerationConfig
from slimdiff.stages import at_least_one, seed

FOLLOWS = "train"
NEEDS = ("generation",)
CONFIG_REQUIRED = False
WILDCARDS = ("variant", "fold")

MIN_CONDITIONAL_EVALUATIONS = 40
"""Evaluations of a sample with a fixed mask or region, unless the configuration names the sampler."""
ATTEMPTS = 8
"""Attempts to draw a lesion into a region before the sample stays without one."""
CLASS_NAMES = {"0": 0, "1": 1, "control": 0, "lesion": 1}
OWN_FOLDER_ONLY = ("classes", "n_per_condition", "seed", "mask", "image", "region")
"""Options that would draw other samples than the study's own."""


def outputs(
    paths: StudyPaths, variant: str = "{variant}", fold: int | str = "{fold}", z_bin: int | str = "{zbin}"
) -> list[Path]:
    """Archive, manifest and settings of one z-bin."""
    stem = paths.samples_stem(variant, fold, z_bin)
    return [Path(f"{stem}.{ending}") for ending in ("npz", "tsv", "json")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    file = {"metavar": "FILE"}
    parser.add_argument("--z-bins", metavar="BINS", help="z-bins, as 0,3,10-12 (default: all)")
    own = parser.add_argument_group("samples of a checkpoint, in a folder of their own")
    own.add_argument("--ckpt", **file, help="a model.safetensors; requires --out-dir")
    own.add_argument("--out-dir", metavar="FOLDER", help="where the samples are written")
    own.add_argument("--classes", metavar="CLASSES", help="control, lesion, or control,lesion (default)")
    own.add_argument(
        "--n-per-condition",
        type=at_least_one,
        metavar="N",
        help="samples per z-bin and class, or per given mask or region",
    )
    own.add_argument("--seed", type=seed, help="seed of the noise (default: generation.seed)")
    own.add_argument("--priors", **file, help="z-bin priors, where generation.background is prior")
    given = parser.add_argument_group("images for your own masks, lesions in your own images")
    given.add_argument("--mask", **file, nargs="+", help="lesion masks (NIfTI, PNG): draw images for them")
    given.add_argument("--image", **file, help="a slice or volume without lesion: draw one into --region")
    given.add_argument("--region", **file, help="where in --image")
    again = parser.add_argument_group("one sample again")
    again.add_argument("--from-manifest", **file, help="a zbin-*.tsv; draws the samples --id into --out-dir")
    again.add_argument("--id", nargs="+", metavar="ID", help="samples of the manifest")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), help="where to draw (default: generation.device)"
    )


def run(study, options) -> None:
    """Raises ConfigError where the options do not fit together."""
    given = {name for name, value in vars(options).items() if value is not None}
    if options.from_manifest:
        _again(options, given)
        return
    if options.id:
        raise ConfigError("--id names samples of a manifest; give --from-manifest, too")
    if study is None:
        raise ConfigError("expected --config (a study) or --from-manifest")
    if (options.ckpt is None) != (options.out_dir is None):
        raise ConfigError("--ckpt and --out-dir need each other; give both or neither")
    if options.ckpt:
        _own_folder(study, options)
        return
    for name in OWN_FOLDER_ONLY:
        if name in given:
            raise ConfigError(
                f"--{name.replace('_', '-')} would draw other samples than the study's; give --ckpt and --out-dir, too"
            )
    from slimdiff.data.priors import read_priors
    from slimdiff.generation.folder import draw_into
    from slimdiff.generation.generator import Generator
    from slimdiff.generation.requests import counts_of, parse_bins, requests_of_bins

    for variant, fold in options.runs:
        config = study.variant(variant).generation
        if options.device:
            config = GenerationConfig.model_validate({**config.model_dump(), "device": options.device})
        priors = Path(options.priors or study.paths.prior(fold))
        values = read_priors(priors) if config.background == "prior" else None
        generator = Generator(study.paths.model(variant, fold) / "model.safetensors", config, values)
        n_bins = generator.card.n_bins
        requests = requests_of_bins(
            config,
            generator.card.fold,
            generator.card.variant,
            parse_bins(options.z_bins or "all", n_bins),
            counts_of(config, n_bins),
        )
        draw_into(study.paths.samples(variant, fold), generator, requests)


def _own_folder(study, options) -> None:
    from slimdiff.data.priors import read_priors
    from slimdiff.generation.folder import check_other_bins, draw_into
    from slimdiff.generation.generator import Generator
    from slimdiff.generation.requests import CLASSES, counts_of, parse_bins, requests_of_bins

    if options.fold is not None:
        raise ConfigError("--fold has no effect with --ckpt, whose fold is fixed; remove it")
    out_dir = Path(options.out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"--out-dir {out_dir}: expected a folder, found a file")
    conditional = bool(options.mask or options.image or options.region)
    section = (study.variant(options.variant) if options.variant else study).generation
    config = _with_cli_overrides(
        section, options.seed, options.device, conditional, options.n_per_condition is not None
    )
    if options.priors and config.background != "prior":
        raise ConfigError(f"--priors has no effect: generation.background is {config.background}")
    generator = Generator(
        Path(options.ckpt), config, read_priors(Path(options.priors)) if options.priors else None
    )
    if conditional:
        if options.classes is not None:
            raise ConfigError("--classes: the class follows from the mask or the region; remove it")
        each = config.replicas * (options.n_per_condition or 1)
        _conditional(generator, options.mask, options.image, options.region, options.z_bins, each, out_dir)
        return
    n_bins = generator.card.n_bins
    z_bins, classes = (
        parse_bins(options.z_bins or "all", n_bins),
        _classes(options.classes or "control,lesion"),
    )
    if options.n_per_condition is None:
        counts = counts_of(config, n_bins)
    else:
        counts = {(z_bin, label): options.n_per_condition for z_bin in z_bins for label in CLASSES}
    counts = {key: number for key, number in counts.items() if key[0] in z_bins and key[1] in classes}
    if not any(counts.values()):
        raise ConfigError("no sample to draw; see --z-bins, --classes and --n-per-condition")
    check_other_bins(generator, out_dir, z_bins)
    card = generator.card
    draw_into(out_dir, generator, requests_of_bins(config, card.fold, card.variant, z_bins, counts))


def _with_cli_overrides(
    section: GenerationConfig, seed: int | None, device: str | None, conditional: bool, counted: bool
) -> GenerationConfig:
    """The section `generation` with the command line's values."""
    values = section.model_dump(exclude_defaults=True)
    values |= {name: value for name, value in (("seed", seed), ("device", device)) if value is not None}
    if conditional and "sampler" not in section.model_fields_set:
        # A stochastic sampler reconciles the fixed part with what is drawn around it; docs/sampling.md has the numbers.
        evaluations = max(MIN_CONDITIONAL_EVALUATIONS, section.evaluations)
        values |= {"sampler": "dpmpp_2m_sde", "evaluations": evaluations}
        print(
            f"sampler: dpmpp_2m_sde, {evaluations} evaluations (generation.sampler of the study overrides it)"
        )
    if counted:
        values.pop("counts", None)
    return GenerationConfig.model_validate(values)


def _conditional(generator, masks, image, region, z_bins, each: int, out_dir: Path) -> None:
    from slimdiff.generation.conditional import draw_conditional
    from slimdiff.generation.conditioning_inputs import SliceGrid, read_masks, read_surroundings
    from slimdiff.generation.requests import parse_bins

    if masks and (image or region):
        raise ConfigError(
            "--mask draws images for masks, --image with --region draws lesions: give one of the two"
        )
    if bool(image) != bool(region):
        raise ConfigError("--image and --region need each other; give both")
    mode, attempts = ("mask_to_image", 1) if masks else ("inpaint", ATTEMPTS)
    card, own_bin = generator.card, None
    if z_bins:
        named = parse_bins(z_bins, card.n_bins)
        if len(named) > 1:
            raise ConfigError(
                f"--z-bins {z_bins}: expected one z-bin, that of the given slice, found {len(named)}"
            )
        own_bin = named[0]
    grid = SliceGrid(card.store_size, card.spacing_mm, card.z_range, card.n_bins)
    if masks:
        inputs = read_masks([Path(path) for path in masks], grid, own_bin)
    else:
        inputs = read_surroundings(Path(image), Path(region), grid, own_bin)
    without = draw_conditional(generator, inputs, each, mode, out_dir, attempts)
    if without:
        print(f"{without} samples have no lesion after {attempts} attempts each", file=sys.stderr)


def _classes(text: str) -> list[int]:
    chosen = [CLASS_NAMES.get(part.strip()) for part in text.split(",")]
    if None in chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(
            f"--classes: expected control, lesion or control,lesion (also 0, 1), found {text!r}"
        )
    return chosen


def _again(options, given: set[str]) -> None:
    from slimdiff.generation.remake import remake_samples

    for name in (*OWN_FOLDER_ONLY, "z_bins", "config", "variant", "fold"):
        if name in given:
            raise ConfigError(
                f"--{name.replace('_', '-')} has no effect with --from-manifest, which records the settings; remove it"
            )
    if not options.out_dir:
        raise ConfigError("--from-manifest: expected --out-dir, the folder to write to")
    out_dir = Path(options.out_dir)
    same = remake_samples(
        Path(options.from_manifest), options.id or [], out_dir, options.ckpt, options.priors, options.device
    )
    words = {
        True: "the same bits as in the archive",
        False: "OTHER BITS than in the archive",
        None: "no archive",
    }
    for name, found in same.items():
        print(f"{out_dir / name}.npz: {words[found]}")
    if False in same.values():
        raise RuntimeError("other bits than in the archive: another processor, device or version of torch")
