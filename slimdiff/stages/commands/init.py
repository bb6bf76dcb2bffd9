"""Look at the names in a folder of images and masks, and write a study with comments for it."""

import argparse
from pathlib import Path

FOLLOWS = None
NEEDS = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place", metavar="FOLDER", help="a BIDS, nnU-Net or BraTS folder, or a table of paths"
    )
    parser.add_argument(
        "--out", metavar="STUDY", help="the study to write (default: NAME.yaml in this folder)"
    )


def run(study, options) -> None:
    """Raises FileExistsError where the study is there: it may have changes of yours."""
    from slimdiff.files import write_text
    from slimdiff.preflight.first_study import first_study, study_name
    from slimdiff.preflight.survey import survey

    place = Path(options.place)
    name = study_name(place)
    out = Path(options.out or f"{name}.yaml")
    if out.exists():
        raise FileExistsError(f"{out}: exists; rename it, or name another file with --out")
    found = survey(place)
    write_text(out, first_study(name, found))
    print(f"{out}: {found.patients} patients and {len(found.included) - found.patients} controls of {place}")
