"""The check before the first job: what it prints, what it stops, and what the jobs learn of the run."""

import re
import sys
from pathlib import Path

import pytest
from helpers.workflow_runs import ROOT, job_counts, snakemake, write_study

from slimdiff import cards
from slimdiff.config import load_study
from slimdiff.preflight.estimate import jobs_of

HOOK = """
# Read by every Python of the run: a machine with an old driver behind a new wheel of torch.
from slimdiff import cards

cards.nvidia_driver = lambda: cards.Driver((12, 4), (cards.Card("A card", (8, 6)),))
cards.torch_build = lambda: cards.Build("2.15.0+cu132", (13, 2), ("sm_75", "sm_90"))
"""


@pytest.fixture
def without_allocation(monkeypatch):
    for name in (cards.GRANTED, *cards.ALLOCATIONS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def old_driver(tmp_path, monkeypatch, without_allocation):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(ROOT))
    return {"PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}"}


def run(*arguments: str, folder: Path, config: Path, **environment: str):
    done = snakemake(*arguments, "--configfile", str(config), folder=folder, **environment)
    return done, done.stdout + done.stderr


def test_a_card_that_torch_cannot_use_stops_the_run_before_its_first_job(tmp_path, old_driver):
    config = write_study(tmp_path)
    done, text = run("--cores", "1", "--resources", "gpu=1", folder=tmp_path, config=config, **old_driver)
    assert done.returncode != 0
    for word in ("STOPS  device auto, --resources gpu=1", "CUDA 13.2", "whl/cu126", "whole study: "):
        assert word in text, text
    assert not (tmp_path / "results").exists()


def test_a_dry_run_prints_the_same_and_does_not_fail(tmp_path, old_driver):
    config = write_study(tmp_path)
    done, text = run("--dry-run", "--resources", "gpu=1", folder=tmp_path, config=config, **old_driver)
    assert done.returncode == 0, text
    assert "STOPS  device auto, --resources gpu=1" in done.stderr
    # Behind the list of jobs.
    assert done.stderr.rstrip().splitlines()[-1].startswith("whole study: ")


def test_the_jobs_are_those_of_the_estimate(tmp_path, without_allocation):
    for changes in (
        {},
        {"utility": {"enabled": False}},
        {"variants": {"base": {}, "b": {"training": {"steps": 3}}}},
    ):
        config = write_study(tmp_path, **changes)
        done, text = run("--dry-run", folder=tmp_path, config=config)
        assert done.returncode == 0, text
        assert job_counts(done.stdout) == {**jobs_of(load_study(config), 4), "all": 1}


def test_targets_that_need_no_card_run_without_one(tmp_path, old_driver):
    config = write_study(tmp_path)
    arguments = ("preprocessed", "--cores", "1", "--resources", "gpu=1", "--until", "phantom")
    done, text = run(*arguments, folder=tmp_path, config=config, **old_driver)
    assert done.returncode == 0, text
    assert "check of tiny: ready" in text
    done, text = run(*arguments, folder=tmp_path, config=config, **old_driver)
    # No job is left, so that there is nothing to check.
    assert done.returncode == 0 and "check of tiny" not in text


def test_a_stopped_run_leaves_no_lock(tmp_path, old_driver):
    config = write_study(tmp_path)
    for _ in range(2):
        _, text = run("--cores", "1", "--resources", "gpu=1", folder=tmp_path, config=config, **old_driver)
        assert "STOPS  device auto" in text and "lock" not in text.lower()


SHOW = """
# Read by every Python of the run: what a job learns of it.
import os, sys

if any(word.endswith("slimdiff-phantom") for word in sys.orig_argv):
    print("GPUS", os.environ.get("SLIMDIFF_GPUS"), flush=True)
"""


@pytest.mark.parametrize(("resources", "expected"), [([], "None"), (["--resources", "gpu=0"], "0")])
def test_every_job_learns_the_gpus_of_the_run(tmp_path, without_allocation, resources, expected):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(SHOW)
    arguments = ("--cores", "1", *resources, "--until", "phantom")
    environment = {"PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}"}
    done, text = run(*arguments, folder=tmp_path, config=write_study(tmp_path), **environment)
    assert done.returncode == 0, text
    assert f"GPUS {expected}" in text


@pytest.mark.parametrize(
    ("device", "arguments", "environment"),
    [
        ("auto", [], "cpu"),
        ("auto", ["--resources", "gpu=1"], "cuda"),
        ("auto", ["--resources", "gpu=0"], "cpu"),
        ("cpu", ["--resources", "gpu=1"], "cpu"),
        ("cuda", [], "cuda"),
        ("auto", ["--executor", "slurm", "--jobs", "5"], "cuda"),
    ],
)
def test_the_conda_environment_fits_the_run(tmp_path, without_allocation, device, arguments, environment):
    if "slurm" in arguments:
        pytest.importorskip("snakemake_executor_plugin_slurm", reason="the Slurm plugin is an extra")
    config = tmp_path / "study.json"
    write_study(tmp_path)
    config.write_text(config.read_text().replace('"study"', f'"device": "{device}", "study"', 1))
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(ENVIRONMENT)
    done, text = run(
        "--dry-run", *arguments, folder=tmp_path, config=config, PYTHONPATH=f"{tmp_path / 'hook'}:{ROOT}"
    )
    assert done.returncode == 0, text
    assert re.findall(r"^CONDA (\w+)$", text, re.MULTILINE) == [environment]


ENVIRONMENT = """
import atexit, os, sys

if any(word.endswith("snakemake") or word == "snakemake" for word in sys.orig_argv):
    atexit.register(lambda: print("CONDA", os.environ.get("SLIMDIFF_CONDA"), file=sys.stderr))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a user without rights, as on a shared machine")
def test_a_results_folder_that_cannot_be_made_stops_the_run(tmp_path, without_allocation):
    (tmp_path / "results").write_text("in the way")
    done, text = run("--cores", "1", folder=tmp_path, config=write_study(tmp_path))
    assert done.returncode != 0
    assert "results_dir: results" in text or "Not a directory" in text or "File exists" in text
