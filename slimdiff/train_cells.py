"""What `slimdiff-train` does: a training with everything of the study that it wants, cell by cell."""

import os
import sys

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.devices import pick_device
from slimdiff.training.checkpoint import Interrupted
from slimdiff.training.distributed import Processes
from slimdiff.training.trainer import Trainer


def train_cells(study: Study, cells: list[tuple[str, int]]) -> None:
    """Train these variants and folds one after the other, each going on from a saved state."""
    store = SliceStore.open(study.paths.store)
    device = pick_device(study.training.device)
    processes = Processes.join("nccl" if device.type == "cuda" else "gloo")
    for variant, fold in cells:
        part, parts = study.variant(variant), read_folds(study.paths.folds, fold)
        try:
            trainer = Trainer(
                part.model,
                part.diffusion,
                part.training,
                store,
                parts["train"],
                study.paths.model(variant, fold),
                identity={"study": study.study, "variant": variant, "fold": fold},
                priors=_priors_of(part, fold),
                perceptual=_perceptual_of(part),
                watched=parts["val"],
                judge=_judge_of(part, store, parts) if processes.first else None,
                processes=processes,
            )
            trainer.run()
        except Interrupted as stop:
            print(f"slimdiff-train: stopped at step {trainer.step}; run it again to go on", file=sys.stderr)
            processes.leave()
            raise SystemExit(128 + stop.signum) from None
        except Exception as error:
            if processes.count > 1:
                # Where only one fails the others wait for it, and a farewell would wait for them: torchrun ends them.
                print(f"slimdiff-train: error: {error}", file=sys.stderr, flush=True)
                os._exit(2)
            raise
        # The next one wants the memory.
        del trainer
    processes.leave()


def _judge_of(study: Study, store: SliceStore, parts: dict[str, list[str]]):
    """What judges the samples of a training's rounds of watching; None where nothing can, which is said."""
    settings = study.training.validation
    if not (settings.every and study.training.steps):
        return None
    if not parts["val"]:
        idle = "; patience, lowest_ratio and select have no effect" if settings.decides else ""
        print(f"no rounds of watching: this fold has no validation subject{idle}", file=sys.stderr)
        return None
    if not settings.samples:
        return None
    from slimdiff.evaluation.monitor import Monitor
    from slimdiff.weights import WeightsUnavailable

    cache, device = study.paths.root / "metrics" / "features", pick_device(study.training.device)
    try:
        return Monitor(
            store,
            parts["train"],
            parts["val"],
            settings.extractor,
            device,
            cache,
            study.training.seed,
            known_acquisitions=study.model.acquisition,
        )
    except WeightsUnavailable as error:
        if settings.decides:
            # Never chosen by something else than was asked for.
            raise
        print(f"rounds of watching without KID and memorisation ratio: {error}", file=sys.stderr)
        return None


def _priors_of(study: Study, fold: int):
    if study.model.prior == "none":
        return None
    from slimdiff.data.priors import read_priors

    path = study.paths.prior(fold)
    if not path.is_file():
        # Never trained without what the configuration asks for (docs/method.md, F9).
        raise FileNotFoundError(
            f"{path}: model.prior is {study.model.prior}, but the priors of fold {fold} are not there; "
            "make them first (slimdiff-priors)"
        )
    return read_priors(path)


def _perceptual_of(study: Study):
    settings = study.diffusion.loss.perceptual
    if not settings.weight:
        return None
    from slimdiff.evaluation.metrics.lpips import perceptual_loss

    return perceptual_loss(settings.net, pick_device(study.training.device))
