"""Fetch the pretrained weights of the study's extractors; files that are on this machine are kept."""

import argparse
import json
import sys

from slimdiff.config import StudyPaths

FOLLOWS = "priors"
NEEDS = (
    "variants",
    "evaluation.extractors",
    "evaluation.lpips_net",
    "diffusion.loss.perceptual",
    "training.validation",
)

LPIPS_BACKBONES = {"alex": "alexnet", "vgg": "vgg16"}


def outputs(paths: StudyPaths) -> list:
    """The record alone; the weights are in the user's folder, for all studies."""
    return [paths.weights]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="these extractors (default: those that the study reads)"
    )


def needed(study) -> dict[str, list[str]]:
    """Names of the weights that a study reads, each with the keys that ask for it."""
    from slimdiff.stages.train import PERCEPTUAL_NET, VALIDATION_EXTRACTOR

    found: dict[str, list[str]] = {name: ["evaluation.extractors"] for name in study.evaluation.extractors}
    found.setdefault(LPIPS_BACKBONES[study.evaluation.lpips_net], []).append("evaluation.lpips_net")
    for name in study.variants:
        own = study.variant(name)
        if own.diffusion.loss.perceptual.weight:
            found.setdefault(LPIPS_BACKBONES[PERCEPTUAL_NET], []).append("diffusion.loss.perceptual")
        if own.training.validation.every and own.training.validation.samples:
            found.setdefault(VALIDATION_EXTRACTOR, []).append("training.validation")
    return {name: list(dict.fromkeys(keys)) for name, keys in found.items()}


def run(study, options) -> None:
    """Raises WeightsUnavailable with all names that cannot be fetched, each with its file and place."""
    from slimdiff import weights
    from slimdiff.files import write_text

    reasons = needed(study)
    record, missing = {}, []
    for name in options.names or reasons:
        try:
            record[name] = {"file": str(weights.path(name)), "sha256": weights.fingerprint(name)}
            print(f"{name}: {record[name]['file']}", file=sys.stderr)
        except weights.WeightsUnavailable as error:
            missing.append(f"{error} (asked for by {', '.join(reasons.get(name, ['--names']))})")
    if missing:
        raise weights.WeightsUnavailable("\n".join(missing))
    write_text(study.paths.weights, json.dumps(record, indent=1))
