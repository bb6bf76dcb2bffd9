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
AFTER_A_STOP = "samples of complete z-bins are kept; run it again for the others"

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
    check_options(study, options)
    if options.from_manifest:
        jobs = _jobs_of_manifest(options)
    elif options.ckpt:
        jobs = [_job_of_checkpoint(study, options)]
    else:
        jobs = [_job_of_study(study, options, variant, fold) for variant, fold in options.runs]
    rows = []
    for job in jobs:
        rows += job.draw()
    if options.from_manifest:
        _report_bits(options)
    elif without := sum(
        row["mode"] is not None and row["class"] == 1 and row["lesion_px"] == 0 for row in rows
    ):
        print(f"{without} samples have no lesion after {jobs[0].attempts} attempts each", file=sys.stderr)


def check_options(study, options) -> None:
    """Raise ConfigError where an option has no effect, or needs another one."""
    given = {name for name, value in vars(options).items() if value is not None}
    if options.from_manifest:
        for name in (*OWN_FOLDER_ONLY, "z_bins", "config", "variant", "fold"):
            if name in given:
                raise ConfigError(
                    f"--{name.replace('_', '-')} has no effect with --from-manifest, which records the settings; "
                    "remove it"
                )
        if not options.out_dir:
            raise ConfigError("--from-manifest: expected --out-dir, the folder to write to")
        return
    if options.id:
        raise ConfigError("--id names samples of a manifest; give --from-manifest, too")
    if study is None:
        raise ConfigError("expected --config (a study) or --from-manifest")
    if (options.ckpt is None) != (options.out_dir is None):
        raise ConfigError("--ckpt and --out-dir need each other; give both or neither")
    if not options.ckpt:
        for name in OWN_FOLDER_ONLY:
            if name in given:
                raise ConfigError(
                    f"--{name.replace('_', '-')} would draw other samples than the study's; give --ckpt and --out-dir, "
                    "too"
                )
        return
    if options.fold is not None:
        raise ConfigError("--fold has no effect with --ckpt, whose fold is fixed; remove it")
    if Path(options.out_dir).exists() and not Path(options.out_dir).is_dir():
        raise ConfigError(f"--out-dir {options.out_dir}: expected a folder, found a file")
    if options.mask and (options.image or options.region):
        raise ConfigError(
            "--mask draws images for masks, --image with --region draws lesions: give one of the two"
        )
    if bool(options.image) != bool(options.region):
        raise ConfigError("--image and --region need each other; give both")
    if (options.mask or options.image) and options.classes is not None:
        raise ConfigError("--classes: the class follows from the mask or the region; remove it")


def _job_of_study(study, options, variant: str, fold: int):
    """The samples of one variant and fold."""
    from slimdiff.generation.folder import Job
    from slimdiff.generation.requests import counts_of, parse_bins, requests_of_bins
    from slimdiff.model.checkpoint import read_card

    config = study.variant(variant).generation
    if options.device:
        config = GenerationConfig.model_validate({**config.model_dump(), "device": options.device})
    checkpoint = study.paths.model(variant, fold) / "model.safetensors"
    card = read_card(checkpoint)
    z_bins = parse_bins(options.z_bins or "all", card.n_bins)
    counts, not_drawn = _where_seen(config, card, counts_of(config, card.n_bins), z_bins)
    requests = requests_of_bins(config, card.fold, card.variant, z_bins, counts)
    priors = Path(options.priors or study.paths.prior(fold)) if config.background == "prior" else None
    return Job(checkpoint, config, study.paths.samples(variant, fold), requests, priors, not_drawn=not_drawn)


def _where_seen(config: GenerationConfig, card, counts, z_bins):
    """The counts without class-1 samples where too few training subjects have a lesion, and why, by the files' names.

    A line on standard error names each such z-bin. Of a table of counts all samples are drawn.
    """
    from slimdiff.generation.requests import bins_without_lesions, why_doubtful, why_not_drawn
    from slimdiff.generation.samples import bin_name

    few = bins_without_lesions(config, card.data.lesion_subjects)
    left_out = {z_bin: few[z_bin] for z_bin in z_bins if z_bin in few and counts.get((z_bin, 1))}
    for z_bin, subjects in left_out.items():
        why = why_doubtful(subjects) if config.counts else why_not_drawn(subjects)
        print(f"{card.variant}, fold {card.fold}, z-bin {z_bin}: {why}", file=sys.stderr)
    if config.counts:
        # A table names what is to be drawn.
        return counts, {}
    kept = {key: number for key, number in counts.items() if key[1] == 0 or key[0] not in few}
    return kept, {bin_name(z_bin): why_not_drawn(subjects) for z_bin, subjects in left_out.items()}


def _job_of_checkpoint(study, options):
    """The samples that the options ask for, in a folder of their own."""
    from slimdiff.generation.folder import ForeignFile, Job
    from slimdiff.generation.requests import CLASSES, counts_of, parse_bins, requests_of_bins
    from slimdiff.model.checkpoint import read_card

    conditional = bool(options.mask or options.image)
    section = (study.variant(options.variant) if options.variant else study).generation
    config = _with_cli_overrides(
        section, options.seed, options.device, conditional, options.n_per_condition is not None
    )
    if options.priors and config.background != "prior":
        raise ConfigError(f"--priors has no effect: generation.background is {config.background}")
    checkpoint, folder = Path(options.ckpt), Path(options.out_dir)
    priors = Path(options.priors) if options.priors else None
    card = read_card(checkpoint)
    if conditional:
        requests, fixed = _conditional_requests(card, config, options)
        if present := sorted(folder.glob("zbin-*")):
            raise ForeignFile(f"{present[0]}: the folder has samples already; choose another folder")
        attempts = 1 if options.mask else ATTEMPTS
        return Job(checkpoint, config, folder, requests, priors, fixed, attempts)
    z_bins = parse_bins(options.z_bins or "all", card.n_bins)
    classes = _classes(options.classes or "control,lesion")
    if options.n_per_condition is None:
        counts = counts_of(config, card.n_bins)
    else:
        counts = {(z_bin, label): options.n_per_condition for z_bin in z_bins for label in CLASSES}
    counts = {key: number for key, number in counts.items() if key[0] in z_bins and key[1] in classes}
    counts, not_drawn = _where_seen(config, card, counts, z_bins)
    if not any(counts.values()):
        raise ConfigError(
            "no sample to draw; see --z-bins, --classes, --n-per-condition and generation.where"
        )
    requests = requests_of_bins(config, card.fold, card.variant, z_bins, counts)
    return Job(checkpoint, config, folder, requests, priors, not_drawn=not_drawn, same_folder=True)


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


def _conditional_requests(card, config: GenerationConfig, options):
    """Requests and fixed parts for --mask, or for --image and --region."""
    from slimdiff.generation.conditional import conditional_requests_of_bins
    from slimdiff.generation.conditioning_inputs import SliceGrid, read_masks, read_surroundings
    from slimdiff.generation.requests import parse_bins

    own_bin = None
    if options.z_bins:
        named = parse_bins(options.z_bins, card.n_bins)
        if len(named) > 1:
            raise ConfigError(
                f"--z-bins {options.z_bins}: expected one z-bin, that of the given slice, found {len(named)}"
            )
        own_bin = named[0]
    grid = SliceGrid(card.store_size, card.spacing_mm, card.z_range, card.n_bins, card.height)
    if options.mask:
        inputs, mode = read_masks([Path(path) for path in options.mask], grid, own_bin), "mask_to_image"
    else:
        inputs, mode = read_surroundings(Path(options.image), Path(options.region), grid, own_bin), "inpaint"
    each = config.replicas * (options.n_per_condition or 1)
    return conditional_requests_of_bins(card, config, inputs, each, mode)


def _classes(text: str) -> list[int]:
    chosen = [CLASS_NAMES.get(part.strip()) for part in text.split(",")]
    if None in chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(
            f"--classes: expected control, lesion or control,lesion (also 0, 1), found {text!r}"
        )
    return chosen


def _jobs_of_manifest(options):
    from slimdiff.generation.remake import remake_jobs

    return remake_jobs(
        Path(options.from_manifest),
        options.id or [],
        Path(options.out_dir),
        options.ckpt and Path(options.ckpt),
        options.priors and Path(options.priors),
        options.device,
    )


def _report_bits(options) -> None:
    """Say of every sample drawn again whether it has the bits of the archive; raises RuntimeError where it has not."""
    from slimdiff.generation.remake import same_bits

    same = same_bits(Path(options.from_manifest), options.id, Path(options.out_dir))
    words = {
        True: "the same bits as in the archive",
        False: "OTHER BITS than in the archive",
        None: "no archive",
    }
    for name, found in same.items():
        print(f"{Path(options.out_dir) / name}.npz: {words[found]}")
    if False in same.values():
        raise RuntimeError("other bits than in the archive: another processor, device or version of torch")
