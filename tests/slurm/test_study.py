"""A study from its first stage to report.html on a real Slurm, with the profile and the command of README.md."""

import re
from collections import Counter

import pytest
from helpers.slurm_runs import ON_CPUS, QUICK, Training, checkout
from helpers.workflow_runs import write_study

pytestmark = pytest.mark.slurm

# Rules and groups: their submissions for four participants, two folds and two z-bins.
SUBMISSIONS = {
    "rule_phantom": 1,
    "rule_participants": 1,
    "rule_preprocess": 2,
    "rule_slices": 1,
    "rule_train": 2,
    "rule_generate": 4,
    "rule_metrics": 2,
    "rule_segmenter": 2,
    "rule_utility": 2,
    "rule_report": 1,
}


def test_a_study_runs_to_its_report(cluster, engine, tmp_path):
    folder = checkout(tmp_path / "checkout")
    write_study(folder, **ON_CPUS, slices={"n_bins": 2})
    run = engine(folder)
    assert run.end() == 0, run.output()[-5000:]
    assert (folder / "results" / "tiny" / "report.html").stat().st_size > 1e6
    jobs = cluster.jobs()
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    # The node has two cores: a job that asks for more waits forever.
    assert {job["cores"] for job in jobs} <= {"1", "2"}
    counts = Counter(re.match("rule_[a-z]+", job["comment"])[0] for job in jobs)
    assert counts == SUBMISSIONS
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
