"""Train one variant on one fold (or all of both); an interrupted training resumes, a finished one is not repeated."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from slimdiff.config import StudyPaths

if TYPE_CHECKING:
    from slimdiff.training.trainer import Trainer

FOLLOWS = "weights"
NEEDS = ("model", "diffusion", "training")
ONLY_LOGGED = tuple(
    f"training.{key}"
    for key in ("preview_every", "log_every", "save_every", "tensorboard", "wandb_project", "keep_state")
)
"""Keys of NEEDS whose change makes no model again: the command reads them, Snakemake does not compare them."""
WILDCARDS = ("variant", "fold")
AFTER_A_STOP = "finished models and saved states are kept; run it again to resume"

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
    parser.add_argument(
        "--again", action="store_true", help="train finished and interrupted ones from step 0"
    )


def run(study, options) -> None:
    from slimdiff.data.store import SliceStore
    from slimdiff.devices import pick_device
    from slimdiff.training.checkpoint import Interrupted
    from slimdiff.training.distributed import Processes, launch

    if options.processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        given = {name: getattr(options, name) for name in ("config", "variant", "fold", "processes")}
        arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
        if status := launch(options.processes, ["train", *arguments, *["--again"] * options.again]):
            raise SystemExit(status)
        return
    store = SliceStore.open(study.paths.store)
    device = pick_device(study.training.device)
    processes = Processes.join("nccl" if device.type == "cuda" else "gloo")
    for variant, fold in options.runs:
        try:
            own = study.variant(variant)
            with _trainer(own, variant, fold, store, processes, options.again) as trainer:
                if trainer:
                    trainer.run()
            asked = processes.largest(trainer.asked_to_stop if trainer else 0)
            # Free the memory for the next one.
            del trainer
            if asked and (variant, fold) != options.runs[-1]:
                _say(processes, f"stopped after {variant}, fold {fold}; run it again for the other models")
                processes.leave()
                raise SystemExit(128 + asked)
        except Interrupted as stop:
            _say(processes, f"stopped at step {stop.step}; its state is saved, run it again to resume")
            processes.leave()
            raise SystemExit(128 + stop.signum) from None
        except Exception as error:
            if processes.count > 1:
                # The other processes wait for this one, and would wait for ever in `leave`: torchrun ends them.
                print(f"slimdiff-train: error: {error}", file=sys.stderr, flush=True)
                os._exit(2)
            raise
    processes.leave()


@contextmanager
def _trainer(study, variant: str, fold: int, store, processes, again: bool) -> Iterator["Trainer | None"]:
    """The trainer of one model, for this process alone until the end of the block; None where the model is there."""
    from slimdiff.data.folds import read_folds
    from slimdiff.locks import alone
    from slimdiff.training.checkpoint import remove_states
    from slimdiff.training.identity import finished_steps, identity_of
    from slimdiff.training.trainer import Trainer

    parts, priors = read_folds(study.paths.folds, fold), _priors(study, fold)
    names = {"study": study.study, "variant": variant, "fold": fold}
    folder, training = study.paths.model(variant, fold), study.training
    sections = (study.model, study.diffusion, training)
    identity = identity_of(*sections, store, parts["train"], priors, names)

    def finished() -> bool:
        steps = None if again or not processes.first else finished_steps(folder, identity, training)
        if steps is not None:
            early = " (stopped early)" if steps < training.steps else ""
            print(
                f"{variant}, fold {fold}: trained: {steps} of {training.steps} steps{early}, same configuration; "
                "nothing to do (--again starts over)",
                file=sys.stderr,
            )
        return bool(processes.largest(steps is not None))

    # First without the lock, which cannot be written into a read-only folder.
    if finished():
        yield None
        return
    lock = alone(
        folder / "state" / "lock", f"training of {variant}, fold {fold}", lambda: processes.largest(0)
    )
    with lock if processes.first else nullcontext():
        # The others take part in one exchange per look of the first one at the lock: a single one has a time limit.
        while not processes.largest(int(processes.first)):
            pass
        # Another process may have trained it in the meantime.
        if finished():
            yield None
            return
        trainer = Trainer(
            *sections,
            store,
            parts["train"],
            folder,
            names,
            priors=priors,
            perceptual=_perceptual(study),
            val_participants=parts["val"],
            judge=_monitor(study, store, parts) if processes.first else None,
            processes=processes,
        )
        if again and processes.first:
            # Only now, when nothing of the study was refused.
            remove_states(folder / "state")
        processes.largest(0)
        yield trainer


def _say(processes, text: str) -> None:
    if processes.first:
        # A signal may have closed the other end of the pipe.
        with suppress(OSError):
            print(f"\nslimdiff-train: {text}", file=sys.stderr, flush=True)


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
