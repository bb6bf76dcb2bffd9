"""Fetch pretrained weights of extractors; files that are on this machine are kept."""

import argparse
import json
import sys
from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "priors"
NEEDS: tuple[str, ...] = ()
"""None, so that no change of the study fetches again: Snakemake drops jobs behind a record that is made again."""

LPIPS_BACKBONES = {"alex": "alexnet", "vgg": "vgg16"}


def outputs(paths: StudyPaths, name: str = "{extractor}") -> list[Path]:
    """The record alone; the weights are in the user's folder, for all studies."""
    return [paths.weights(name)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--names",
        nargs="+",
        required=True,
        metavar="NAME",
        help="extractors; slimdiff check lists those of a study",
    )


def needed(study) -> dict[str, list[str]]:
    """Names of the weights that a study reads, each with the keys that ask for it."""
    found: dict[str, list[str]] = {}
    for keys in (needed_by_metrics(study), *(needed_by_training(study, name) for name in study.variants)):
        for weights, key in keys:
            found.setdefault(weights, []).append(key)
    return {name: list(dict.fromkeys(keys)) for name, keys in found.items()}


def needed_by_metrics(study) -> list[tuple[str, str]]:
    """Weights that the metrics read, and the key that asks for each."""
    extractors = [(name, "evaluation.extractors") for name in study.evaluation.extractors]
    return [*extractors, (LPIPS_BACKBONES[study.evaluation.lpips_net], "evaluation.lpips_net")]


def needed_by_training(study, variant: str) -> list[tuple[str, str]]:
    """Weights that the trainings of a variant read, and the key that asks for each."""
    from slimdiff.stages.train import PERCEPTUAL_NET, VALIDATION_EXTRACTOR

    own, found = study.variant(variant), []
    if own.training.validation.every and own.training.validation.samples:
        found.append((VALIDATION_EXTRACTOR, "training.validation"))
    if own.diffusion.loss.perceptual.weight:
        found.append((LPIPS_BACKBONES[PERCEPTUAL_NET], "diffusion.loss.perceptual"))
    return found


def run(study, options) -> None:
    """Raises WeightsUnavailable with all names that cannot be fetched, each with its file and place."""
    from slimdiff import weights
    from slimdiff.files import write_text

    missing = []
    for name in options.names:
        try:
            file = weights.path(name)
            record = {"file": file.name, "sha256": weights.fingerprint(name)}
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        except weights.WeightsUnavailable as error:
            missing.append(str(error))
        else:
            print(f"{name}: {file}", file=sys.stderr)
            write_text(study.paths.weights(name), json.dumps(record, indent=1))
    if missing:
        raise weights.WeightsUnavailable("\n".join(missing))
