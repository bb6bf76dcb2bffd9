"""With accounting: a cancelled job is noticed, and the commented lines of the profile reach Slurm."""

import pytest
from helpers.slurm_runs import QUICK, Training

pytestmark = pytest.mark.slurm
ACCOUNTING = True


def test_a_cancelled_job_is_noticed_and_the_commented_lines_reach_slurm(cluster, engine, held):
    folder = held()
    path = folder / "profiles" / "slurm" / "profile.yaml"
    lines = path.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("# YOUR CLUSTER"))
    for number, line in enumerate(lines[begin + 1 :], begin + 1):
        if not line.strip():
            break
        key = line.lstrip("# ").partition(":")[0]
        if key.isidentifier() or key == "set-resources":
            lines[number] = line.replace("# ", "", 1)
    # The study computes on CPUs, and asks for no card itself.
    profile = "\n".join(lines).replace("&card {", "&card {gpu: 1, ")
    assert profile.count("\n  slurm_account: lab") == profile.count("gpu: 1, slurm_partition: gpu") == 1
    path.write_text(profile + "\n")
    training = Training(folder, "base").hold()
    run = engine(folder, *QUICK, training.target, "results/tiny/metrics/real/fold-0/utility_subjects.tsv")
    run.until(training.reached, "the training at step 4")
    job = training.reached()[0][0]
    facts = cluster.facts(job)
    assert (facts["Account"], facts["Partition"], facts["QOS"]) == ("lab", "gpu", "gpu")
    assert facts["Features"] == "rack2"
    assert "gpu:a100=1" in facts["TRES"] + facts["TresPerJob"].replace("gres:gpu:a100:1", "gpu:a100=1")
    assert cluster.run("scancel", job).returncode == 0
    assert run.end() == 0, run.output()[-5000:]
    assert "resuming at step" in training.log()
    assert [job["state"] for job in training.jobs(cluster)] == ["CANCELLED", "COMPLETED"]
    # What the plugin does not understand: the reason why the profile asks squeue.
    said = cluster.run("sacct", "-X", "-n", "-P", "-j", job, "--format=State").stdout.strip()
    assert said.startswith("CANCELLED by")
