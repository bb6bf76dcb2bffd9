"""A study from its first stage to report.html on a real Slurm, with the profile and the command of README.md."""

import re
from collections import Counter

import pytest
from helpers.slurm_runs import ON_CPUS, QUICK, Training, checkout
from helpers.workflow_runs import write_study

pytestmark = pytest.mark.slurm

# Rules and groups: their submissions for four participants, two folds and two z-bins.
SUBMISSIONS = {
    "phantom": 1,
    "participants": 1,
    "preprocess": 2,
    "slices": 1,
    "train": 2,
    "generate": 4,
    "metrics": 2,
    "segmenter": 2,
    "utility": 2,
    "report": 1,
}


def test_a_study_runs_to_its_report(cluster, engine, tmp_path):
    folder = checkout(tmp_path / "checkout")
    write_study(folder, **ON_CPUS, slices={"n_bins": 2})
    run = engine(folder)
    assert run.end() == 0, run.output()[-5000:]
    assert (folder / "results" / "tiny" / "report.html").stat().st_size > 1e6
    # Each log is in the folder of its rule or group. A job that had to be tried again would be counted twice.
    assert Counter(re.findall(r"slurm_logs/(?:rule|group)_([a-z]+)\S*\)\.", run.output())) == SUBMISSIONS
    # Slurm knows the jobs of the last minutes. The node has two cores: a job that asks for more waits forever.
    jobs = cluster.jobs()
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    assert {job["cores"] for job in jobs} <= {"1", "2"}
    again = engine(folder)
    assert again.end() == 0, again.output()
    assert not again.submitted()
    assert "Nothing to be done" in again.output()


def test_two_jobs_at_once_see_different_cards(cluster, engine, held):
    folder = held()
    trainings = [Training(folder, "base", fold).hold() for fold in range(2)]
    targets = [training.target for training in trainings]
    run = engine(folder, *QUICK, "--set-resources", "train:gpu=1", "--max-threads", "1", *targets)
    run.until(lambda: all(training.reached() for training in trainings), "both trainings at step 4")
    for training in trainings:
        training.release()
    assert run.end() == 0, run.output()[-5000:]
    assert sorted(training.reached()[0][2] for training in trainings) == ["0", "1"]
