"""`slimdiff run BIDS OUT [participant|group]`: the study is written once, and Snakemake gets every other option."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.workflow_runs import job_counts

from slimdiff import cli
from slimdiff.preflight import bids_app


def touch_dataset(root: Path, count: int = 3) -> Path:
    for number in range(1, count + 1):
        anat = root / f"sub-{number:02d}" / "anat"
        anat.mkdir(parents=True)
        for end in ("", "_roi"):
            (anat / f"sub-{number:02d}_FLAIR{end}.nii.gz").write_bytes(b"")
    return root


def called(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "slimdiff", "run", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )


def test_each_level_plans_its_jobs(tmp_path):
    touch_dataset(tmp_path / "data")
    one = called(tmp_path, "data", "out", "participant", "--participant_label", "02", "--dry-run")
    assert one.returncode == 0, one.stderr
    assert job_counts(one.stdout + one.stderr)["preprocess"] == 1
    written = (tmp_path / "out" / "study.yaml").read_text()
    every = called(tmp_path, "data", "out", "participant", "--dry-run", "--cores", "1")
    counts = job_counts(every.stdout + every.stderr)
    assert counts["preprocess"] == 3 and "train" not in counts
    whole = called(tmp_path, "data", "out", "--dry-run")
    assert job_counts(whole.stdout + whole.stderr)["train"] == 2
    # The study is the user's from now on.
    assert (tmp_path / "out" / "study.yaml").read_text() == written


def test_the_exit_status_is_that_of_the_engine(tmp_path):
    touch_dataset(tmp_path / "data")
    done = called(tmp_path, "data", "out", "participant", "--no-such-option-of-snakemake")
    assert done.returncode not in (0, None) and "no-such-option-of-snakemake" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["participant", "--participant-label", "99"], "expected participants of"),
        (["group", "--participant-label", "01"], "data.exclude in out/study.yaml"),
    ],
)
def test_participants_that_cannot_be_chosen(tmp_path, monkeypatch, capsys, arguments, said):
    touch_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "data", "out", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_results_of_another_dataset_are_not_touched(tmp_path, monkeypatch, capsys):
    touch_dataset(tmp_path / "data")
    touch_dataset(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bids_app, "start", lambda command: None)
    assert cli.main(["run", "data", "out"]) == 0
    before = (tmp_path / "out" / "study.yaml").read_text()
    assert cli.main(["run", "other", "out"]) == 2
    assert "expected the study of other, found that of" in capsys.readouterr().err
    assert (tmp_path / "out" / "study.yaml").read_text() == before


def test_without_the_workflow_it_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    touch_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bids_app, "WORKFLOW", tmp_path / "Snakefile")
    assert cli.main(["run", "data", "out"]) == 2
    assert "the workflow is not part of the wheel" in capsys.readouterr().err
