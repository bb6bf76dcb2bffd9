"""One call for a BIDS dataset, as BIDS-Apps have it: the study in the folder of the results; Snakemake's command."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import slimdiff
from slimdiff.config import load_study
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover
from slimdiff.files import write_text
from slimdiff.preflight.first_study import first_study, study_name
from slimdiff.preflight.survey import survey

STUDY = "study.yaml"
WORKFLOW = Path(slimdiff.__file__).resolve().parents[1] / "Snakefile"
"""The workflow, which is not part of the wheel."""


def study_in(bids: Path, out: Path) -> Path:
    """The study of a dataset in the folder of its results; it is written where there is none.

    Raises DataError where the study there is of another dataset.
    """
    path = out / STUDY
    if not path.exists():
        bids, out = bids.resolve(), out.resolve()
        found = survey(bids)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, first_study(study_name(bids), found, str(out)))
        print(
            f"{path}: written; {found.patients} patients and {len(found.included) - found.patients} controls"
        )
        return path
    own = load_study(str(path)).data.root
    if own is None or Path(own).resolve() != bids.resolve():
        raise DataError(
            f"{path}: expected the study of {bids}, found that of {own}; name another folder of results"
        )
    return path


def engine_command(
    study: Path, out: Path, level: str, labels: Sequence[str], cores: str, further: Sequence[str]
) -> list[str]:
    """Snakemake's command.

    Args:
        study: the study's file.
        out: folder in which Snakemake runs.
        level: `participant` or `group`.
        labels: of participants; none: all.
        cores: Snakemake's --cores.
        further: options for Snakemake.
    """
    if not WORKFLOW.is_file():
        raise FileNotFoundError(
            f"{WORKFLOW}: not found: the workflow is not part of the wheel; install slimdiff from its clone with pip "
            "install -e, or start snakemake with the Snakefile of a clone"
        )
    place = [
        "--snakefile",
        str(WORKFLOW),
        "--directory",
        str(out.resolve()),
        "--configfile",
        str(study.resolve()),
    ]
    # Before the targets: options with several values would take them.
    command = [sys.executable, "-m", "snakemake", *further, *place, "--cores", cores]
    if level == "group":
        return command
    if not labels:
        return [*command, "preprocessed"]
    known = load_study(str(study))
    rows = {row.participant_id for row in discover(known.data, known.paths.phantom) if row.included}
    names = [f"sub-{label.removeprefix('sub-')}" for label in labels]
    if missing := [name for name in names if name not in rows]:
        raise DataError(
            f"--participant-label: expected participants of {known.data.root}, found {', '.join(missing[:5])}; "
            f"there are {', '.join(sorted(rows)[:5])}{' ...' if len(rows) > 5 else ''}"
        )
    return [*command, *(str(known.paths.volume(name, kind)) for name in names for kind in ("image", "mask"))]


def start(command: Sequence[str]) -> None:
    """Run Snakemake; raises SystemExit with its exit status if that is not 0."""
    status = subprocess.run(command).returncode
    if status:
        raise SystemExit(status)
