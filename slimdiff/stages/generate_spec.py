"""Draw the samples that a JSON specification asks for."""

import argparse
from pathlib import Path

FOLLOWS = "generate"
NEEDS = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spec", required=True, metavar="FILE", help="the specification, a JSON file")
    parser.add_argument(
        "--validate-only", action="store_true", help="check it and what it names; draw nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be drawn")
    parser.add_argument("--verbose", action="store_true", help="print more")


def run(study, options) -> None:
    from slimdiff.generation.spec import run_spec

    run_spec(Path(options.spec), options.validate_only, options.dry_run, options.verbose)
