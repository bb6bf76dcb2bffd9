"""A tiny study that Snakemake ran from phantom to report, once for all files of tests."""

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.workflow_runs import RECORDER, snakemake, write_study

from slimdiff import weights


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory) -> tuple[Path, str]:
    """Its folder and what the engine printed. Read only: `finished` is a copy.

    The files that each command opened are in `recorded`, a file a process.
    """
    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"extractor weights: {error}")
    base = tmp_path_factory.getbasetemp()
    # The processes of pytest-xdist have a folder each in a common one.
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, printed = base / "whole-run", base / "whole-run.json"
    with FileLock(base / "whole-run.lock"):
        if not printed.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            recorded = folder / "recorded"
            recorded.mkdir(parents=True)
            (recorded / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")
            path = os.pathsep.join(filter(None, (str(recorded), os.environ.get("PYTHONPATH"))))
            environment = {"PYTHONPATH": path, "RECORDED": str(recorded)}
            study = str(write_study(folder))
            done = snakemake("--cores", "2", "--configfile", study, folder=folder, **environment)
            output = done.stdout + done.stderr
            assert done.returncode == 0, output
            printed.write_text(json.dumps(output))
    return folder, json.loads(printed.read_text())


@pytest.fixture(scope="module")
def finished(whole_run, tmp_path_factory) -> Path:
    """A copy of the run for one file of tests, with the times of the files."""
    return shutil.copytree(whole_run[0], tmp_path_factory.mktemp("study") / "copy")
