"""The commands: one a stage. Each reads a study (a YAML or JSON file, or a rule's JSON) and does one thing.

Errors are one message on standard error and exit status 2; nothing half-written stays. With SLIMDIFF_DEBUG set, the
traceback follows.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from slimdiff.config import Study, load_study

# Heavy imports stand inside the commands: `--help` and a wrong argument answer at once.


def _command(function: Callable, with_study: bool = True, **arguments: dict) -> Callable[[], int]:
    """An entry point that parses `arguments`, loads the study if the command works on one, and reports errors."""

    @functools.wraps(function)
    def main(argv: list[str] | None = None) -> int:
        name = "slimdiff-" + function.__name__.strip("_").replace("_", "-")
        parser = argparse.ArgumentParser(prog=name, description=function.__doc__)
        if with_study:
            parser.add_argument("--config", required=True, help="study: a YAML or JSON file, or JSON text")
        for key, options in arguments.items():
            settings = {name: value for name, value in options.items() if name != "positional"}
            parser.add_argument(key if options.get("positional") else f"--{key}", **settings)
        options = parser.parse_args(argv)
        try:
            function(options, *([load_study(options.config)] if with_study else []))
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            print(f"{name}: error: {error}", file=sys.stderr)
            if os.environ.get("SLIMDIFF_DEBUG"):
                raise
            return 2
        except KeyboardInterrupt:
            print(f"{name}: stopped", file=sys.stderr)
            return 130
        return 0

    return main


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; a whole number from 1 on is wanted")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}; a whole number from 0 to {2**32 - 1} is wanted")
    return int(text)


def _phantom(options: argparse.Namespace, study: Study) -> None:
    """Write the phantom cohort as a BIDS dataset."""
    from slimdiff.data.phantom.cohort import write_cohort

    settings = study.data.phantom
    write_cohort(study.paths.phantom, settings.patients, settings.controls, settings.seed, settings.voxel_mm)


def _fetch(options: argparse.Namespace, study: Study) -> None:
    """Fetch the study's public dataset (data.fetch); what is there and right stays, what was cut off goes on."""
    from slimdiff.data_cells import run_fetch

    run_fetch(study)


def _participants(options: argparse.Namespace, study: Study) -> None:
    """Find the participants and look at their volumes: participants.tsv and quality.tsv."""
    from slimdiff.data_cells import run_participants

    run_participants(study, options.workers)


def _preprocess(options: argparse.Namespace, study: Study) -> None:
    """Put one participant's volumes (or all participants') on the study's grid, or a volume back from it."""
    from slimdiff.data_cells import run_back, run_preprocess

    if options.back:
        run_back(study, options.participant, Path(options.back), options.out and Path(options.out))
    else:
        run_preprocess(study, options.participant)


def _kfold(options: argparse.Namespace, study: Study) -> None:
    """Divide the participants into folds."""
    from slimdiff.data_cells import run_kfold

    run_kfold(study)


def _cache(options: argparse.Namespace, study: Study) -> None:
    """Cut the preprocessed volumes into the slice store."""
    from slimdiff.data_cells import run_cache

    run_cache(study)


def _priors(options: argparse.Namespace, study: Study) -> None:
    """Write the z-bin priors of one fold (or all folds) from its training subjects."""
    from slimdiff.data_cells import run_priors

    run_priors(study, options.fold)


def _train(options: argparse.Namespace, study: Study) -> None:
    """Train one variant on one fold (or all of both), going on from a saved state."""
    from slimdiff.training.distributed import launch

    if options.processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        arguments = [f"--{name}={value}" for name, value in vars(options).items() if value is not None]
        if status := launch(options.processes, ["train", *arguments]):
            raise SystemExit(status)
        return

    from slimdiff.train_cells import train_cells

    train_cells(study, study.cells(options.variant, options.fold))


def _generate(options: argparse.Namespace) -> None:
    """Draw samples: a study's, or from --ckpt into --out_dir, to --mask or into --region of --image, or again."""
    from slimdiff.generate_cells import generate_cells

    generate_cells(options)


def _generate_spec(options: argparse.Namespace) -> None:
    """Draw what a JSON specification asks for."""
    from slimdiff.generation.spec import run_spec

    run_spec(Path(options.spec), options.validate_only, options.dry_run, options.verbose)


def _metrics(options: argparse.Namespace, study: Study) -> None:
    """Judge the samples of a variant and fold, or of all; sum up over folds; compare the variants."""
    from slimdiff.metrics_cells import run

    run(options.what, study, options.variant, options.fold)


def _figures(options: argparse.Namespace, study: Study) -> None:
    """Draw the figures, and write the tables and the provenance of the study."""
    variants, folds = list(study.variants), study.folds.k
    if options.what in ("all", "quality"):
        from slimdiff.report.quality import write_sheet

        write_sheet(study)
    if options.what in ("all", "pictures"):
        from slimdiff.report.figures import draw_all

        draw_all(study, variants, folds)
    if options.what in ("all", "tables"):
        from slimdiff.report.tables import write_all

        write_all(study, variants, folds)
    if options.what in ("all", "provenance"):
        from slimdiff.report.provenance import write

        write(study, variants, folds)


def _export(options: argparse.Namespace, study: Study) -> None:
    """Write what segmentation tools read: BIDS derivatives, nnU-Net and MONAI datasets, PNG pairs."""
    from slimdiff.export.export import export_study

    variants = [options.variant] if options.variant else list(study.variants)
    folds = range(study.folds.k) if options.fold is None else [options.fold]
    export_study(study, variants, folds, options.format)


def _import(options: argparse.Namespace) -> None:
    """Make a checkpoint of the reference (PyPI slim-diff 1.0.0) one of ours; nothing in it is executed."""
    from slimdiff.importing.convert import import_reference, read_configuration

    config = read_configuration(Path(options.config)) if options.config else None
    priors = None
    if options.priors:
        from slimdiff.data.priors import read_priors

        priors = read_priors(Path(options.priors))
    card = import_reference(Path(options.ckpt), Path(options.out), config, priors, options.raw)
    print(f"{options.out}: {card.diffusion['prediction']} network, {card.n_bins} z-bins, step {card.step}")


_cell = {
    "variant": {"help": "one variant (default: all)"},
    "fold": {"type": int, "help": "one fold (default: all)"},
}


def _cell_options() -> dict[str, dict]:
    return {key: dict(value) for key, value in _cell.items()}


phantom = _command(_phantom)
fetch = _command(_fetch)
participants = _command(
    _participants,
    workers={"type": _positive, "default": 1, "metavar": "N", "help": "volumes looked at side by side"},
)
preprocess = _command(
    _preprocess,
    participant={"help": "one participant (default: all)"},
    back={"metavar": "FILE", "help": "a volume on the grid, to be brought back to the participant's image"},
    out={"metavar": "FILE", "help": "with --back: the file to write"},
)
kfold = _command(_kfold)
cache = _command(_cache)
priors = _command(_priors, fold={"type": int, "help": "one fold (default: all)"})
train = _command(
    _train,
    **_cell_options(),
    processes={"type": int, "default": 1, "help": "processes (GPUs) of this machine that train it together"},
)
_file = {"metavar": "FILE"}
generate = _command(
    _generate,
    with_study=False,
    config={"help": "study: a YAML or JSON file, or JSON text"},
    **_cell_options(),
    z_bins={"help": "z-bins, as 0,3,10-12 (default: all)"},
    ckpt={**_file, "help": "a model.safetensors of its own, with --out_dir"},
    out_dir={"metavar": "FOLDER", "help": "where its samples go"},
    classes={"help": "0 (control), 1 (lesion), or 0,1 (default)"},
    n_per_condition={
        "type": _positive,
        "metavar": "N",
        "help": "samples of each z-bin and class, or of what is given",
    },
    seed={"type": _seed, "help": "of the noise (default: the study's)"},
    device={"choices": ("auto", "cpu", "cuda", "mps"), "help": "(default: the study's)"},
    priors={**_file, "help": "z-bin priors, where generation.background is prior"},
    mask={**_file, "nargs": "+", "help": "your own masks (NIfTI, PNG): draw images to them"},
    image={**_file, "help": "a slice or volume without lesion: draw one into --region"},
    region={**_file, "help": "where in --image"},
    **{"from-manifest": {**_file, "help": "a zbin-*.tsv: draw samples of it again, by --id, into --out_dir"}},
    id={"nargs": "+", "help": "samples of the manifest"},
)
_switch = {"action": "store_true"}
generate_spec = _command(
    _generate_spec,
    with_study=False,
    spec={**_file, "required": True, "help": "the specification, a JSON file"},
    **{
        "validate-only": {**_switch, "help": "check it and what it names, and draw nothing"},
        "dry-run": {**_switch, "help": "print what would be drawn"},
        "verbose": {**_switch, "help": "say more"},
    },
)
metrics = _command(
    _metrics,
    **_cell_options(),
    what={
        "positional": True,
        "nargs": "?",
        "default": "all",
        "choices": (
            "all",
            "image-metrics",
            "mask-metrics",
            "feature-nn",
            "baseline",
            "segmenter",
            "utility",
            "summary",
            "compare",
            "plot",
            "mask-plot",
        ),
        "help": "axes of metrics: all (default), image-metrics, mask-metrics (with pairs and control) or feature-nn "
        "(memorisation); baseline (training slices in the place of samples); segmenter and utility (segmenters of real "
        "slices, and with samples); summary (over folds); compare (variants); plot, mask-plot (figures)",
    },
)
figures = _command(
    _figures,
    what={
        "positional": True,
        "nargs": "?",
        "default": "all",
        "choices": ("all", "quality", "pictures", "tables", "provenance"),
        "help": "the contact sheet of participants, figures/, tables/, or provenance.json with its page",
    },
)
export = _command(
    _export,
    **_cell_options(),
    format={
        "nargs": "+",
        "choices": ("bids", "nnunet", "monai", "png"),
        "help": "only these (default: export.formats)",
    },
)
importing = _command(
    _import,
    with_study=False,
    ckpt={"required": True, "help": "the reference's Lightning .ckpt"},
    out={"required": True, "help": "the model.safetensors to write"},
    config={"help": "the reference's YAML, if the checkpoint does not bring its configuration"},
    priors={"help": "priors/fold-*.npz, for a network that sees anatomical priors"},
    raw={"action": "store_true", "help": "the last weights, where there are no averaged ones"},
)
