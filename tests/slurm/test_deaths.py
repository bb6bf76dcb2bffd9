"""Trainings that Slurm or the system kills are tried again and resume; others go on; a failure shows its log."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from helpers.slurm_runs import QUICK, Training
from helpers.workflow_runs import ROOT
from safetensors.numpy import load_file

pytestmark = pytest.mark.slurm
CORES = 16
"""For all trainings at once; most of them only wait."""


def assert_same_weights(one: Training, two: Training):
    first, second = load_file(one.model), load_file(two.model)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.tobytes() == second[name].tobytes(), name


def memory_mb(job: dict[str, str]) -> int:
    return (
        round(float(job["memory"].removesuffix("G")) * 1024)
        if "G" in job["memory"]
        else int(job["memory"][:-1])
    )


def test_killed_trainings_are_tried_again_and_resume(cluster, engine, held):
    names = ("calm", "late", "cancelled", "killed", "hungry", "requeued")
    folder = held(variants={name: {} for name in names} | {"broken": {"model": {"prior": "concat"}}})
    trainings = {name: Training(folder, name) for name in (*names, "broken")}
    dying = [trainings[name].hold() for name in names[1:]]
    targets = [training.target for training in trainings.values()]
    # Only the network of `broken` reads it: an error that every attempt meets.
    (folder / "results" / "tiny" / "priors" / "fold-0.npz").write_bytes(b"damaged")
    run = engine(folder, *QUICK, *targets)
    run.until(lambda: all(training.reached() for training in dying), "all trainings at step 4")
    job = {training.variant: training.reached()[0][0] for training in dying}

    late = trainings["late"]
    lock = json.loads((late.model.parent / "state" / "lock").read_text())
    assert (lock["host"], lock["pid"], lock["slurm_job"]) == (
        os.uname().nodename,
        late.reached()[0][1],
        job["late"],
    )
    by_hand = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "slimdiff",
            "train",
            "--config",
            "study.json",
            "--variant",
            "late",
            "--fold",
            "0",
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = next(line for line in by_hand.stderr if "waiting for its end" in line)
    by_hand.kill()
    by_hand.communicate()
    assert f"Slurm job {job['late']}" in said

    for command in (
        ("scontrol", "update", f"job={job['late']}", "TimeLimit=1"),
        ("scancel", job["cancelled"]),
        ("scontrol", "requeue", job["requeued"]),
    ):
        assert cluster.run(*command).returncode == 0, command
    os.kill(trainings["killed"].reached()[0][1], signal.SIGKILL)
    hungry = trainings["hungry"]
    asked = memory_mb(hungry.jobs(cluster)[0])
    hungry.take(asked)
    assert run.end() == 1, run.output()[-5000:]
    output = run.output()

    calm = trainings["calm"]
    assert len(calm.jobs(cluster)) == 1
    for training in dying:
        assert training.model.is_file(), (training.variant, output[-5000:])
        assert_same_weights(training, calm)
        assert re.search("resuming at step [35] of 6", training.log()), (training.variant, training.log())
    states = {name: [one["state"] for one in training.jobs(cluster)] for name, training in trainings.items()}
    assert states["late"] == ["TIMEOUT", "COMPLETED"]
    assert states["cancelled"] == ["CANCELLED", "COMPLETED"]
    assert states["killed"] == ["FAILED", "COMPLETED"]
    assert states["requeued"] == ["COMPLETED"]
    assert cluster.facts(job["requeued"])["Restarts"] == "1"
    # Lack of memory is said, and the next attempt has twice as much.
    assert states["hungry"] == ["FAILED", "COMPLETED"]
    assert "exceeded memory limit" in output
    assert memory_mb(hungry.jobs(cluster)[1]) > 1.8 * asked
    # A failure that every attempt meets is shown with its log, and the others went on.
    assert states["broken"] == ["FAILED"] * 3
    assert len(re.findall("slimdiff-train: error: .*priors/fold-0.npz", output)) >= 3, output[-5000:]


def test_a_drained_or_lost_node_delays_a_training(cluster, engine, held):
    folder = held()
    drained, lost = Training(folder, "base", 0).hold(), Training(folder, "base", 1).hold()
    run = engine(folder, *QUICK, drained.target, lost.target)
    run.until(lambda: drained.reached() and lost.reached(), "both trainings at step 4")

    def node(state: str):
        change = ("scontrol", "update", f"nodename={cluster.host}", f"state={state}", "reason=test")
        assert cluster.run(*change).returncode == 0

    # A drained node ends what runs on it, and starts nothing.
    node("drain")
    os.kill(drained.reached()[0][1], signal.SIGKILL)
    run.until(lambda: len(drained.jobs(cluster)) == 2, "the next attempt")
    assert [job["state"] for job in drained.jobs(cluster)] == ["FAILED", "PENDING"]
    assert [job["state"] for job in lost.jobs(cluster)] == ["RUNNING"]
    node("down")
    run.until(lambda: lost.jobs(cluster)[0]["state"] != "RUNNING", "the end of the lost job")
    node("resume")
    assert run.end() == 0, run.output()[-5000:]
    assert [job["state"] for job in drained.jobs(cluster)] == ["FAILED", "COMPLETED"]
    assert [job["state"] for job in lost.jobs(cluster)] == ["COMPLETED"]
    assert cluster.facts(lost.reached()[0][0])["Restarts"] == "1"
    for training in (drained, lost):
        assert re.search("resuming at step [35] of 6", training.log()), training.log()
