"""Finished work is not made again while the content of its inputs is the same."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.workflow_runs import job_counts, snakemake, write_study

from slimdiff.cli import run_stage
from slimdiff.files import sha256
from slimdiff.model.checkpoint import read_card


def planned(folder: Path, *targets: str) -> dict[str, int]:
    done = snakemake(*targets, "--dry-run", "--configfile", str(folder / "study.json"), folder=folder)
    assert done.returncode == 0, done.stderr
    return job_counts(done.stdout) if "Job stats:" in done.stdout else {}


@pytest.fixture
def study(finished, tmp_path) -> Path:
    """A copy as `cp -r` makes it: every file has a new time, in no order."""
    return shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copyfile)


def test_a_copied_study_has_nothing_to_do(study):
    assert planned(study) == {}


def test_touched_files_are_not_changed_files(study):
    """Every file in turn is the newest: inputs, volumes, tables, models and samples."""
    for path in sorted(study.glob("results/tiny/**/*"), reverse=True):
        if path.is_file():
            os.utime(path)
    assert planned(study) == {}


def test_a_stage_that_is_run_again_by_hand_leaves_what_is_the_same(study, monkeypatch):
    monkeypatch.chdir(study)
    results = study / "results" / "tiny"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    for stage in ("participants", "preprocess", "kfold", "cache", "priors"):
        assert run_stage(stage, ["--config", "study.json"]) == 0
    new = [path for path in before if path.stat().st_mtime_ns != before[path]]
    # Cached measurements have the times of the files that they measured.
    assert not [path for path in new if path.parent.name != "quality"]
    assert planned(study) == {}


def test_a_voxel_that_changes_is_seen(study):
    mask = sorted(study.glob("results/tiny/phantom/sub-*/anat/*_roi.nii.gz"))[0]
    image = nibabel.load(mask)
    voxels = np.asarray(image.dataobj).copy()
    voxels[tuple(np.argwhere(voxels)[0])] = 0
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), mask)
    found = planned(study)
    assert found["preprocess"] == 1
    assert {"participants", "cache", "train", "generate", "metrics"} <= found.keys()


def test_a_training_starts_from_a_model_and_again_if_its_content_changes(study, tmp_path):
    start, model = tmp_path / "start.safetensors", "results/tiny/models/base/fold-0/model.safetensors"
    shutil.copyfile(study / model, start)
    config = write_study(study, training={"init": str(start)})
    target = model.replace("fold-0", "fold-1")
    done = snakemake(target, "--cores", "1", "--configfile", str(config), folder=study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_card(study / target).init["sha256"] == sha256(start)
    os.utime(start)
    assert planned(study, target) == {}
    shutil.copyfile(study / target, start)
    assert planned(study, target) == {"train": 1}


@pytest.mark.parametrize("killed", ["before the page", "within the second build"])
def test_a_report_that_was_not_finished_is_built_although_there_is_no_job(study, killed):
    """Snakemake calls no hook if there is nothing to do."""
    report = study / "results" / "tiny" / "report.html"
    if killed == "before the page":
        report.unlink()
    else:
        report.write_text("of the results before")
        (study / ".snakemake" / "report-results-tiny").touch()
    for built in (True, False):
        done = snakemake("--cores", "1", "--configfile", str(study / "study.json"), folder=study)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Nothing to be done" in done.stdout + done.stderr
        assert ("report: results/tiny/report.html" in done.stderr) is built
        assert "slimdiff" in report.read_text()
    assert not (study / ".snakemake" / "report-results-tiny").exists()


def test_what_a_killed_job_left_is_removed_by_the_run_that_makes_its_files(study):
    tables = study / "results" / "tiny" / "tables"
    (tables / "metrics.tex").unlink()
    (tables / ".metrics.tex.0a1b2c3d.tex").write_text("half")
    (tables / ".other.tex.0a1b2c3d.tex").write_text("of a file that no stage writes")
    done = snakemake("--cores", "1", "--configfile", str(study / "study.json"), folder=study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tables / "metrics.tex").is_file()
    assert [path.name for path in tables.glob(".*") if path.suffix != ".sha256"] == [
        ".other.tex.0a1b2c3d.tex"
    ]


def test_weights_whose_job_outlived_its_engine_do_not_leave_out_the_others(tmp_path):
    """The engine was killed, and its job wrote the record later: Snakemake (9.27) forces it, and only it."""
    config = write_study(tmp_path)
    record = tmp_path / "results" / "tiny" / "weights" / "alexnet.json"
    marker = tmp_path / ".snakemake" / "incomplete" / "cmVzdWx0cy90aW55L3dlaWdodHMvYWxleG5ldC5qc29u"
    for path in (record, marker):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    plan = ("--dry-run", "--rerun-incomplete", "--configfile", str(config))
    everything = job_counts(snakemake(*plan, folder=tmp_path).stdout)
    assert everything["weights"] == 1 and everything["train"] == 2 and not record.exists()
    # While an engine runs, its outputs are left alone.
    record.write_text("{}")
    lock = tmp_path / ".snakemake" / "locks" / "0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("results/tiny/participants.tsv")
    snakemake(*plan, folder=tmp_path)
    assert record.exists()
