"""Train a network on drawn heads with lesions, a start for trainings on few patients (docs/pretraining.md)."""

import argparse
import sys
from pathlib import Path

FOLLOWS = None
NEEDS = (
    "data.anatomy",
    "preprocess.spacing_mm",
    "preprocess.grid",
    "slices.n_bins",
    "slices.min_lesion_mm2",
    "model",
    "diffusion",
    "training",
)
AFTER_A_STOP = "the saved state is kept; run it again to resume"
FOLDER = "pretrained"
"""Of the model, below the study's folder: no training of a study is replaced."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also write the model in float16, to pass it on, to FILE"
    )
    parser.add_argument("--again", action="store_true", help="begin at step 0")


def run(study, options) -> None:
    from slimdiff.config.base import ConfigError
    from slimdiff.locks import alone
    from slimdiff.model.checkpoint import load_model, save_model
    from slimdiff.training.checkpoint import Interrupted, remove_states
    from slimdiff.training.identity import finished_steps

    if options.out and options.out.is_dir():
        raise ConfigError(f"--out {options.out}: expected a file to write, found a folder; add a name")
    folder = study.paths.root / FOLDER
    with alone(folder / "state" / "lock", "pretraining"):
        trainer = _trainer(study, folder)
        if options.again:
            # Only now, when nothing of the study was refused.
            remove_states(folder / "state")
        try:
            if not options.again and finished_steps(folder, trainer.identity, study.training) is not None:
                print("pretrained: same configuration; nothing to do (--again starts over)", file=sys.stderr)
            else:
                trainer.run()
        except Interrupted as stop:
            print(
                f"\nslimdiff-pretrain: stopped at step {stop.step}; its state is saved, run it again to resume",
                file=sys.stderr,
            )
            raise SystemExit(128 + stop.signum) from None
    if options.out:
        import torch

        network, card = load_model(folder / "model.safetensors", torch.device("cpu"))
        weights = network.state_dict()
        save_model(
            options.out,
            {name: value.half() if value.is_floating_point() else value for name, value in weights.items()},
            card,
        )


def _trainer(study, folder: Path):
    """The trainer of the study's network on drawn slices."""
    from functools import partial

    from slimdiff.config.base import ConfigError
    from slimdiff.data.phantom.drawn import SliceDrawer
    from slimdiff.devices import pick_device
    from slimdiff.training.drawn_set import DrawnSet, drawn_store
    from slimdiff.training.trainer import Trainer

    if study.model.prior != "none" or study.model.acquisition:
        raise ConfigError(
            "model.prior, model.acquisition: expected none and false, because drawn heads have no priors and no "
            f"acquisitions, found {study.model.prior} and {str(study.model.acquisition).lower()}"
        )
    if study.diffusion.loss.perceptual.weight:
        raise ConfigError(
            "diffusion.loss.perceptual.weight: expected 0, because it is not available with drawn heads, found "
            f"{study.diffusion.loss.perceptual.weight:g}"
        )
    width, height, _ = study.preprocess.grid
    spacing = study.preprocess.spacing_mm
    if not isinstance(spacing, int | float):
        raise ConfigError(f"preprocess.spacing_mm: expected one number, the side of a pixel, found {spacing}")
    drawn = (
        study.data.anatomy,
        (height, width),
        float(spacing),
        study.slices.min_lesion_mm2,
        study.training.seed,
    )
    device = pick_device(study.training.device)
    facts = {
        "anatomy": study.data.anatomy.model_dump(),
        "size": [height, width],
        "spacing_mm": spacing,
        "min_lesion_mm2": study.slices.min_lesion_mm2,
        "n_bins": study.slices.n_bins,
        "seed": study.training.seed,
    }
    drawer = SliceDrawer(*drawn, device)
    store = drawn_store(drawer, study.slices.n_bins, facts)
    return Trainer(
        study.model,
        study.diffusion,
        study.training,
        store,
        store.participant.tolist(),
        folder,
        {"study": study.study, "variant": FOLDER, "fold": 0},
        training_set=partial(DrawnSet, drawer),
    )
