"""Say what will stop the study on this machine, all at once, and what it will cost."""

import argparse
import os

from slimdiff.stages import at_least_one

FOLLOWS = None
NEEDS = ("*",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cores", type=at_least_one, metavar="N", help="cores of the run (default: those of this machine)"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs of the run, as --resources gpu=N")


def run(study, options) -> None:
    """Raises SystemExit with status 2 where a finding stops the study."""
    from slimdiff.config import check_fold_count
    from slimdiff.data.folds import one_of_each
    from slimdiff.data.participants import DataError
    from slimdiff.data.quality.exclusion import settle_discovery
    from slimdiff.data.sources import discover
    from slimdiff.preflight.estimate import estimate
    from slimdiff.preflight.machine import Finding, RunOptions, as_text, findings, plan_line

    cores = options.cores or os.cpu_count() or 1
    data, participants = [], 0
    try:
        rows = settle_discovery(discover(study.data, study.paths.phantom), study.quality)
        persons = one_of_each([row for row in rows if row.included])
        participants = sum(row.included for row in rows)
        patients = sum(row.is_patient for row in persons)
        if not study.folds.use_split:
            check_fold_count(study.folds.k, patients, len(persons) - patients)
    except (DataError, OSError, ValueError) as error:
        data = [Finding(True, "data", str(error), "the data of the study", "see the message")]
    one = RunOptions(cores, options.gpus)
    cost = estimate(study, participants, cores, options.gpus or 0)
    found = [*data, *findings(study, one, cost)]
    print(as_text(study.study, found, plan_line(study, one, cost)))
    if any(finding.stops for finding in found):
        raise SystemExit(2)
