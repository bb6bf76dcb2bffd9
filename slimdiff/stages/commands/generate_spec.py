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
    parser.add_argument("--verbose", action="store_true", help="print the checkpoint and the settings, too")


def run(study, options) -> None:
    run_spec(Path(options.spec), options.validate_only, options.dry_run, options.verbose)


def run_spec(path: Path, validate_only: bool = False, dry_run: bool = False, verbose: bool = False) -> None:
    """Check a specification and draw its samples.

    With `validate_only` it is only checked, with `dry_run` the plan is shown, with `verbose` the checkpoint and the
    settings, too. Raises ConfigError with one line per problem; nothing is written then.
    """
    from slimdiff.generation.spec import load_spec, plan

    whole = plan(load_spec(path), Path(path))
    if dry_run or verbose:
        print(whole.describe(verbose))
    if validate_only:
        print(f"{path}: valid, {whole.total} samples")
    elif not dry_run:
        whole.job().draw()
        print(f"{whole.output_dir}: {whole.total} samples")
