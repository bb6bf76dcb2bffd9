"""Jobs of a killed run in Slurm's queue, as squeue prints them; on a real Slurm in tests/slurm/test_engine.py."""

import os

import pytest

from slimdiff.preflight import machine, queue
from slimdiff.preflight.machine import RunOptions


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Puts programs named as Slurm's on PATH, which print what a test sets."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def prints(name, text, status=0):
        (programs / f"{name}.txt").write_text(text)
        (programs / name).write_text(f"#!/bin/sh\ncat '{programs}/{name}.txt'\nexit {status}\n")
        (programs / name).chmod(0o755)

    return prints


def line(number, state, comment, output):
    return f"{number:<20}{state:<20}{comment:<200}{output}\n"


def test_only_jobs_that_log_into_this_folder_are_found(slurm, tmp_path):
    own, other = tmp_path / "my study", tmp_path / "my study 2"
    logs = ".snakemake/slurm_logs"
    slurm(
        "squeue",
        line(12, "RUNNING", "rule_train_wildcards_base_0", f"{own}/{logs}/rule_train/base_0/12.log")
        + line(13, "PENDING", "rule_cache", f"{other}/{logs}/rule_cache/13.log")
        + line(14, "PENDING", "(null)", f"{own}/slurm-14.out"),
    )
    found = queue.left_behind(own)
    assert [str(job) for job in found] == ["12 (train base_0, RUNNING)"]


def test_a_slurm_that_does_not_answer_has_no_jobs(slurm, tmp_path):
    slurm("squeue", line(1, "RUNNING", "rule_cache", f"{tmp_path}/.snakemake/slurm_logs/1.log"), status=1)
    slurm("scontrol", "", status=1)
    assert queue.left_behind(tmp_path) == []
    assert queue.remembered_s() is None


def test_how_long_slurm_remembers_a_job(slurm):
    slurm("scontrol", "Configuration data\nMinJobAge               = 60 sec\nMpiDefault = none\n")
    assert queue.remembered_s() == 60


def test_jobs_of_a_killed_run_stop_the_next_one_and_a_short_memory_is_noted(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logs = tmp_path.resolve() / ".snakemake" / "slurm_logs"
    slurm(
        "squeue", "".join(line(number, "PENDING", "rule_cache", f"{logs}/{number}.log") for number in (7, 8))
    )
    slurm("scontrol", "MinJobAge = 60 sec\n")
    stops, note = machine._queue(RunOptions(remote=True, rules={"train"}))
    assert stops.stops and "2 jobs of another run in this folder: 7 (cache, PENDING), 8" in stops.found
    assert stops.remedy.endswith("scancel 7 8")
    assert not note.stops and "MinJobAge 60 s" in note.subject
    # `slimdiff check` starts no run; jobs on this machine are not asked about.
    assert not list(machine._queue(RunOptions(remote=True)))
    slurm("squeue", "")
    assert not list(machine._queue(RunOptions(rules={"train"})))
