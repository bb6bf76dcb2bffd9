"""Train one variant on one fold (or all of both); an interrupted training resumes."""

import argparse
import os
import sys
from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "weights"
NEEDS = ("model", "diffusion", "training")
WILDCARDS = ("variant", "fold")

VALIDATION_EXTRACTOR = "alexnet"
"""Features of KID and memorisation ratio in validation rounds; without its weights a round has losses only."""
PERCEPTUAL_NET = "vgg"
"""Backbone of the perceptual loss (published code: vgg)."""


def outputs(paths: StudyPaths, variant: str = "{variant}", fold: int | str = "{fold}") -> list[Path]:
    """The resume state is in `state/` beside them and is no output: Snakemake deletes outputs of a failed job."""
    folder = paths.model(variant, fold)
    return [
        folder / name for name in ("model.safetensors", "history.tsv", "validation.tsv", "previews/final.png")
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="processes (GPUs) of this machine that share each batch (default: %(default)s)",
    )


def run(study, options) -> None:
    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore
    from slimdiff.devices import pick_device
    from slimdiff.training.checkpoint import Interrupted
    from slimdiff.training.distributed import Processes, launch
    from slimdiff.training.trainer import Trainer

    if options.processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        given = {name: getattr(options, name) for name in ("config", "variant", "fold", "processes")}
        arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
        if status := launch(options.processes, ["train", *arguments]):
            raise SystemExit(status)
        return
    store = SliceStore.open(study.paths.store)
    device = pick_device(study.training.device)
    processes = Processes.join("nccl" if device.type == "cuda" else "gloo")
    for variant, fold in options.runs:
        own, parts = study.variant(variant), read_folds(study.paths.folds, fold)
        try:
            trainer = Trainer(
                own.model,
                own.diffusion,
                own.training,
                store,
                parts["train"],
                study.paths.model(variant, fold),
                identity={"study": study.study, "variant": variant, "fold": fold},
                priors=_priors(own, fold),
                perceptual=_perceptual(own),
                val_participants=parts["val"],
                judge=_monitor(own, store, parts) if processes.first else None,
                processes=processes,
            )
            trainer.run()
        except Interrupted as stop:
            print(f"slimdiff-train: stopped at step {trainer.step}; run it again to resume", file=sys.stderr)
            processes.leave()
            raise SystemExit(128 + stop.signum) from None
        except Exception as error:
            if processes.count > 1:
                # The other processes wait for this one, and would wait for ever in `leave`: torchrun ends them.
                print(f"slimdiff-train: error: {error}", file=sys.stderr, flush=True)
                os._exit(2)
            raise
        # Free the memory for the next one.
        del trainer
    processes.leave()


def _monitor(study, store, parts: dict[str, list[str]]):
    """What measures KID and memorisation during training; None where nothing can, and the log says why."""
    settings = study.training.validation
    if not (settings.every and study.training.steps):
        return None
    if not parts["val"]:
        idle = "; patience, lowest_ratio and select have no effect" if settings.decides else ""
        print(f"no validation: this fold has no validation subject{idle}", file=sys.stderr)
        return None
    if not settings.samples:
        return None
    from slimdiff.devices import pick_device
    from slimdiff.evaluation.monitor import Monitor
    from slimdiff.weights import WeightsUnavailable

    cache, device = study.paths.root / "metrics" / "features", pick_device(study.training.device)
    try:
        return Monitor(
            store,
            parts["train"],
            parts["val"],
            VALIDATION_EXTRACTOR,
            device,
            cache,
            study.training.seed,
            known_acquisitions=study.model.acquisition,
        )
    except WeightsUnavailable as error:
        if settings.decides:
            # Weights are never selected by another rule than the configured one.
            raise
        print(f"validation without KID and memorisation ratio: {error}", file=sys.stderr)
        return None


def _priors(study, fold: int):
    if study.model.prior == "none":
        return None
    from slimdiff.data.priors import read_priors

    path = study.paths.prior(fold)
    if not path.is_file():
        # Never trained without what the configuration asks for (docs/method.md, F9).
        raise FileNotFoundError(
            f"{path}: not found, but model.prior is {study.model.prior}; run slimdiff-priors --fold {fold} first"
        )
    return read_priors(path)


def _perceptual(study):
    settings = study.diffusion.loss.perceptual
    if not settings.weight:
        return None
    from slimdiff.devices import pick_device
    from slimdiff.evaluation.metrics.lpips import perceptual_loss

    return perceptual_loss(PERCEPTUAL_NET, pick_device(study.training.device))
