"""A Snakemake that is ended while its jobs are in the queue, and started again."""

import os
import re
import signal

import pytest
from helpers.slurm_runs import QUICK, Training

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
CORES = 4
"""For two trainings at once."""


def is_over(training: Training, cluster) -> bool:
    return all(job["state"] not in ("PENDING", "RUNNING", "COMPLETING") for job in training.jobs(cluster))


def test_after_sigterm_snakemake_waits_for_its_jobs_and_repeats_none(cluster, engine, held):
    folder = held()
    training = Training(folder, "base").hold()
    # Not the last job: the metrics of this model are not started any more.
    target = "results/tiny/samples/base/fold-0/zbin-00.npz"
    run = engine(folder, *QUICK, target)
    run.until(training.reached, "the training at step 4")
    run.process.send_signal(signal.SIGTERM)
    training.release()
    run.end()
    assert training.model.is_file(), run.output()[-5000:]
    assert not (folder / target).exists()
    again = engine(folder, *QUICK, target)
    assert again.end() == 0, again.output()[-5000:]
    assert (folder / target).is_file()
    assert len(training.jobs(cluster)) == len(training.reached()) == 1


def test_after_sigkill_its_jobs_must_end_before_the_next_run(cluster, engine, held):
    folder = held()
    cancelled, finished = (Training(folder, "base", fold).hold() for fold in range(2))
    targets = [cancelled.target, finished.target]
    run = engine(folder, *QUICK, *targets)
    run.until(lambda: cancelled.reached() and finished.reached(), "both trainings at step 4")
    run.process.kill()
    run.process.wait()
    locked = engine(folder, *QUICK, *targets)
    assert locked.end() == 1
    assert "--unlock" in locked.output()
    assert engine(folder, "--unlock").end() == 0
    refused = engine(folder, *QUICK, *targets)
    assert refused.end() == 1
    jobs = sorted((cancelled.reached()[0][0], finished.reached()[0][0]), key=int)
    assert "2 jobs of another run in this folder: " in refused.output(), refused.output()
    for training in (cancelled, finished):
        assert f"{training.reached()[0][0]} (train base_{training.fold}, RUNNING)" in refused.output()
    assert re.search(f"scancel ({jobs[0]} {jobs[1]}|{jobs[1]} {jobs[0]})\n", refused.output())
    assert not refused.submitted()
    # One of the two remedies for each.
    assert cluster.run("scancel", cancelled.reached()[0][0]).returncode == 0
    finished.release()
    run.until(
        lambda: is_over(cancelled, cluster) and is_over(finished, cluster), "the end of the old jobs", False
    )
    model = finished.model.read_bytes()
    again = engine(folder, *QUICK, *targets)
    assert again.end() == 0, again.output()[-5000:]
    assert "resuming at step" in cancelled.log()
    # Its step 4 was trained once; what the job that outlived Snakemake wrote is kept, or written again from its state.
    assert len(finished.reached()) == 1
    assert finished.model.read_bytes() == model


def test_ctrl_c_cancels_the_jobs_and_the_same_command_resumes(cluster, engine, held):
    folder = held()
    training = Training(folder, "base").hold()
    run = engine(folder, *QUICK, training.target)
    run.until(training.reached, "the training at step 4")
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end() != 0
    run.until(lambda: is_over(training, cluster), "the end of the cancelled job", False)
    again = engine(folder, *QUICK, training.target)
    assert again.end() == 0, again.output()[-5000:]
    assert [job["state"] for job in training.jobs(cluster)] == ["CANCELLED", "COMPLETED"]
    assert "resuming at step" in training.log()
