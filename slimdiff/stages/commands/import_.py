"""Convert a checkpoint of the published code (PyPI slim-diff 1.0.0) to a slimdiff model; nothing in it is executed."""

import argparse
from pathlib import Path

FOLLOWS = "export"
NEEDS = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="the Lightning checkpoint (.ckpt)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the model.safetensors to write")
    parser.add_argument(
        "--config", metavar="FILE", help="the published code's YAML, if the checkpoint has no configuration"
    )
    parser.add_argument("--priors", metavar="FILE", help="priors/fold-*.npz, for a network that takes priors")
    parser.add_argument("--raw", action="store_true", help="the last weights instead of the averaged ones")


def run(study, options) -> None:
    from slimdiff.config import read_mapping
    from slimdiff.data.priors import read_priors
    from slimdiff.importing.convert import import_reference

    config = read_mapping(Path(options.config)) if options.config else None
    priors = read_priors(Path(options.priors)) if options.priors else None
    card = import_reference(Path(options.ckpt), Path(options.out), config, priors, options.raw)
    print(f"{options.out}: {card.diffusion['prediction']} network, {card.n_bins} z-bins, step {card.step}")
