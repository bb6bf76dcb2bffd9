"""Say what differs between a study's provenance.json and this machine, and how to run the study again."""

import argparse
from pathlib import Path

FOLLOWS = "provenance"
NEEDS = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("record", metavar="FILE", help="provenance.json of the study")
    parser.add_argument(
        "--against", metavar="FILE", help="provenance.json of the run to compare, instead of this machine"
    )
    parser.add_argument("--write", metavar="STUDY", help="write the study to this JSON file, to run it again")


def run(study, options) -> None:
    """Raises SystemExit with status 1 where the results of two runs differ."""
    from slimdiff.preflight.reproduction import (
        commands,
        differences,
        differences_text,
        found_beside,
        read_provenance,
        same_results,
        this_machine,
        write_study_of,
    )

    path = Path(options.record)
    record = read_provenance(path)
    if options.against:
        other = read_provenance(Path(options.against))
        found = differences(record, other)
        print(differences_text(record, found, f"in {options.against}"))
        same, text = same_results(record, other)
        print(text)
        if not same:
            raise SystemExit(1)
        return
    print(differences_text(record, differences(record, this_machine(record, path.parent)), "here"))
    print(found_beside(record, path.parent))
    if options.write:
        for line in write_study_of(record, Path(options.write)):
            print(line)
    print(commands(record, path, options.write))
