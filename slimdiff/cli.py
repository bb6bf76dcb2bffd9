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
        name = "slimdiff-" + function.__name__.strip("_")
        parser = argparse.ArgumentParser(prog=name, description=function.__doc__)
        if with_study:
            parser.add_argument("--config", required=True, help="study: a YAML or JSON file, or JSON text")
        for key, options in arguments.items():
            settings = {name: value for name, value in options.items() if name != "positional"}
            parser.add_argument(key if options.get("positional") else f"--{key}", **settings)
        options = parser.parse_args(argv)
        try:
            # A checkpoint says by itself what it is, whatever the study's sections of model and training say.
            complete = getattr(options, "ckpt", None) is None
            function(options, *([load_study(options.config, complete)] if with_study else []))
        except (OSError, ValueError, RuntimeError) as error:
            print(f"{name}: error: {error}", file=sys.stderr)
            if os.environ.get("SLIMDIFF_DEBUG"):
                raise
            return 2
        return 0

    return main


def _phantom(options: argparse.Namespace, study: Study) -> None:
    """Write the phantom cohort as a BIDS dataset."""
    from slimdiff.data.phantom import write_cohort

    settings = study.data.phantom
    write_cohort(study.paths.phantom, settings.patients, settings.controls, settings.seed, settings.voxel_mm)


def _participants(options: argparse.Namespace, study: Study) -> None:
    """Write participants.tsv from the configured source."""
    from slimdiff.data.sources import discover, write_participants

    write_participants(study.paths.participants, discover(study.data, study.paths.phantom))


def _preprocess(options: argparse.Namespace, study: Study) -> None:
    """Put one participant's volumes (or all participants') on the study's grid."""
    from tqdm import tqdm

    from slimdiff.data.preprocess import preprocess
    from slimdiff.data.sources import read_participants

    paths = study.paths
    rows = [row for row in read_participants(paths.participants) if row.included]
    if options.participant:
        rows = [row for row in rows if row.participant_id == options.participant]
        if not rows:
            raise ValueError(f"{paths.participants}: no included participant {options.participant!r}")
    for row in tqdm(rows, desc="preprocess", unit="subject", disable=len(rows) == 1):
        name = row.participant_id
        preprocess(
            row,
            study.preprocess,
            paths.volume(name, "FLAIR"),
            paths.volume(name, "mask"),
            paths.volume_json(name),
        )


def _kfold(options: argparse.Namespace, study: Study) -> None:
    """Divide the participants into folds."""
    from slimdiff.data.folds import lesion_volumes, make_folds, write_folds
    from slimdiff.data.sources import read_participants

    rows = [row for row in read_participants(study.paths.participants) if row.included]
    volumes = lesion_volumes(
        {row.participant_id: study.paths.volume_json(row.participant_id) for row in rows}
    )
    write_folds(study.paths.folds, make_folds(rows, volumes, study.folds))


def _cache(options: argparse.Namespace, study: Study) -> None:
    """Cut the preprocessed volumes into the slice store."""
    from slimdiff.data.folds import training_participants
    from slimdiff.data.slices import build_store
    from slimdiff.data.sources import read_participants

    rows = [row for row in read_participants(study.paths.participants) if row.included]
    automatic = study.slices.z_range == "auto"
    training = training_participants(study.paths.folds) if automatic else []
    build_store(rows, study.paths.volume, study.slices, study.paths.store, training)


def _priors(options: argparse.Namespace, study: Study) -> None:
    """Write the z-bin priors of one fold (or all folds) from its training subjects."""
    import numpy as np

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore
    from slimdiff.data.zbins import write_priors, z_bin_priors

    store = SliceStore.open(study.paths.store)
    for fold in range(study.folds.k) if options.fold is None else [options.fold]:
        rows = store.rows_of(read_folds(study.paths.folds, fold)["train"])
        images = np.asarray(store.images[rows])
        priors = z_bin_priors(images, store.z_bin[rows], store.n_bins, study.priors, store.spacing_mm)
        write_priors(study.paths.prior(fold), priors)


def _train(options: argparse.Namespace, study: Study) -> None:
    """Train one variant on one fold (or all of both), going on from a saved state."""
    from slimdiff.training.processes import launch

    if options.processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        arguments = [f"--{name}={value}" for name, value in vars(options).items() if value is not None]
        if status := launch(options.processes, ["train", *arguments]):
            raise SystemExit(status)
        return

    from slimdiff.train_cells import train_cells

    train_cells(study, _cells(options, study))


def _cells(options: argparse.Namespace, study: Study) -> list[tuple[str, int]]:
    variants = [options.variant] if options.variant else list(study.variants)
    folds = [options.fold] if options.fold is not None else list(range(study.folds.k))
    return [(variant, fold) for variant in variants for fold in folds]


def _generate(options: argparse.Namespace, study: Study) -> None:
    """Draw samples: of one variant, fold and z-bin of the study, or from --ckpt into --out_dir."""
    from slimdiff.generation.generate import Generator, requests_of_bin, write_bin

    if (options.ckpt is None) != (options.out_dir is None):
        raise ValueError("--ckpt and --out_dir belong together")
    for variant, fold in _cells(options, study) if options.ckpt is None else [(None, None)]:
        checkpoint = (
            Path(options.ckpt) if options.ckpt else study.paths.model(variant, fold) / "model.safetensors"
        )
        generator = Generator(checkpoint, study.variant(variant).generation if variant else study.generation)
        card = generator.card
        bins = range(card.n_bins) if options.zbin is None else [options.zbin]
        for z_bin in bins:
            if not 0 <= z_bin < card.n_bins:
                raise ValueError(f"--zbin {z_bin}: {checkpoint} has z-bins 0 to {card.n_bins - 1}")
            stem = study.paths.samples_stem(card.variant, card.fold, z_bin)
            if options.out_dir:
                stem = Path(options.out_dir) / stem.name
            write_bin(generator, requests_of_bin(generator.config, card.fold, card.variant, z_bin), stem)


def _metrics(options: argparse.Namespace, study: Study) -> None:
    """Judge the samples: one variant and fold's, all of them, or their summary over folds."""
    from slimdiff.evaluation.evaluate import AXES, evaluate_cell, summarise

    if options.what == "summary":
        summarise(study.paths, list(study.variants), study.folds.k)
        return
    if options.what == "plot":
        from slimdiff.report.figures import draw_all

        draw_all(study, list(study.variants), study.folds.k)
        return
    axes = {
        "all": AXES,
        "image-metrics": ("image", "memorisation"),
        "mask-metrics": ("mask", "pair", "control"),
    }
    for variant, fold in _cells(options, study):
        evaluate_cell(study, variant, fold, axes[options.what])


def _figures(options: argparse.Namespace, study: Study) -> None:
    """Draw the figures, and write the tables and the provenance of the study."""
    variants, folds = list(study.variants), study.folds.k
    if options.what in ("all", "pictures"):
        from slimdiff.report.figures import draw_all

        draw_all(study, variants, folds)
    if options.what in ("all", "tables"):
        from slimdiff.report.tables import write_all

        write_all(study, variants, folds)
    if options.what in ("all", "provenance"):
        from slimdiff.report.provenance import write

        write(study, variants, folds)


def _import(options: argparse.Namespace) -> None:
    """Make a checkpoint of the reference (PyPI slim-diff 1.0.0) one of ours; nothing in it is executed."""
    from slimdiff.importing import import_reference, read_configuration

    config = read_configuration(Path(options.config)) if options.config else None
    priors = None
    if options.priors:
        from slimdiff.data.zbins import read_priors

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
participants = _command(_participants)
preprocess = _command(_preprocess, participant={"help": "one participant (default: all)"})
kfold = _command(_kfold)
cache = _command(_cache)
priors = _command(_priors, fold={"type": int, "help": "one fold (default: all)"})
train = _command(
    _train,
    **_cell_options(),
    processes={"type": int, "default": 1, "help": "processes (GPUs) of this machine that train it together"},
)
generate = _command(
    _generate,
    **_cell_options(),
    zbin={"type": int, "help": "one z-bin (default: all)"},
    ckpt={"help": "a model.safetensors of its own"},
    out_dir={"help": "where its samples go"},
)
metrics = _command(
    _metrics,
    **_cell_options(),
    what={
        "positional": True,
        "nargs": "?",
        "default": "all",
        "choices": ("all", "image-metrics", "mask-metrics", "summary", "plot"),
        "help": "which axes; summary joins variants and folds, plot draws the figures",
    },
)
figures = _command(
    _figures,
    what={
        "positional": True,
        "nargs": "?",
        "default": "all",
        "choices": ("all", "pictures", "tables", "provenance"),
        "help": "figures/, tables/, or provenance.json with its page",
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
