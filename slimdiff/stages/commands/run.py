"""Run the study of a BIDS dataset by one call, as a BIDS-App.

Writes the study where there is none, then starts Snakemake. Options that are not listed here are Snakemake's:
`slimdiff run my_bids out --dry-run`.
"""

import argparse
from pathlib import Path

FOLLOWS = None
NEEDS = None
PASSES_ON = True
"""Options that it does not know are kept in `options.further`."""
LEVELS = ("participant", "group")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bids", metavar="BIDS", help="the dataset's folder")
    parser.add_argument("out", metavar="OUT", help="folder of the results, and of the study, OUT/study.yaml")
    parser.add_argument(
        "level",
        nargs="?",
        choices=LEVELS,
        default="group",
        help="participant: preprocess the volumes only; group: the whole study, which does so, too (default)",
    )
    parser.add_argument(
        "--participant-label",
        nargs="+",
        metavar="LABEL",
        help="participant: only these, with or without sub-",
    )
    parser.add_argument("--cores", default="all", metavar="N", help="Snakemake's (default: all)")


def run(study, options) -> None:
    """Raises SystemExit with Snakemake's exit status if that is not 0."""
    from slimdiff.preflight.bids_app import engine_command, start, study_in

    path = study_in(Path(options.bids), Path(options.out))
    labels = options.participant_label or []
    if labels and options.level == "group":
        raise ValueError(
            "--participant-label: expected with the level participant, found group, which takes all participants; "
            f"leave participants out by data.exclude in {path}"
        )
    start(engine_command(path, Path(options.out), options.level, labels, options.cores, options.further))
