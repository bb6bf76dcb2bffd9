"""Ctrl-C ends every stage with one calm sentence and its exit status, and leaves no temporary file."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from helpers.kills import partials

from slimdiff import cli, stages

# Each stage in turn: Ctrl-C before the n-th file gets its name, a second signal while its temporary is removed.
STOPPED = """
import json, os, signal, sys
from pathlib import Path
from slimdiff import cli

replace, unlink, left = Path.replace, Path.unlink, {"replace": 1, "unlink": 0}

def stopped_replace(self, target):
    left["replace"] -= 1
    if not left["replace"]:
        left["unlink"] = 1
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    return replace(self, target)

def stopped_unlink(self, missing_ok=False):
    if left["unlink"]:
        left["unlink"] = 0
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
    return unlink(self, missing_ok)

Path.replace, Path.unlink = stopped_replace, stopped_unlink
config, *names = sys.argv[1:]
folder = Path(config).parent
model = folder / "tiny" / "models" / "base" / "fold-0" / "model.safetensors"
more = {"generate": ["--ckpt", str(model), "--out-dir", str(folder / "drawn"), "--z-bins", "0"]}
for name in names:
    name, _, count = name.partition(":")
    left["replace"] = int(count or 1)
    print("STAGE", name, file=sys.stderr, flush=True)
    try:
        status = cli.run_stage(name, ["--config", config, *more.get(name, [])])
    except SystemExit as error:
        status = error.code
    print(name, status, flush=True)
"""
STAGES = ["phantom:5", "participants:2", "preprocess", "quality", "kfold", "cache", "priors"]
STAGES += ["train", "generate", "compare", "figures", "tables:2", "provenance", "export"]


@pytest.fixture(scope="module")
def copy(finished, tmp_path_factory):
    """The finished study in a folder of its own: its file and its results."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(finished.paths.root, folder / finished.study)
    values = json.loads(finished.model_dump_json(exclude_defaults=True))
    values["results_dir"] = str(folder)
    (folder / "study.json").write_text(json.dumps(values))
    assert cli.run_stage("participants", ["--config", str(folder / "study.json")]) == 0
    return folder


def test_every_stage_ends_calmly_and_leaves_no_temporary_file(copy):
    command = [sys.executable, "-c", STOPPED, str(copy / "study.json"), *STAGES]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    statuses = dict(
        line.split() for line in done.stdout.splitlines() if " " in line and line.split()[-1].isdigit()
    )
    said = dict(part.split("\n", 1) for part in done.stderr.split("STAGE ")[1:])
    for name in (name.partition(":")[0] for name in STAGES):
        assert statuses[name] == "130", (name, said[name])
        assert "Traceback" not in said[name], said[name]
        sentences = [line for line in said[name].splitlines() if line.startswith(f"slimdiff-{name}: ")]
        assert len(sentences) == 1 and "stopped" in sentences[0] and "run it again" in sentences[0], said[
            name
        ]
    assert partials(copy) == []
    assert not list(copy.rglob("*.lock")) and not list(copy.rglob(".*.partial"))


def test_every_stage_with_a_rule_was_stopped():
    """fetch and weights: tests/data/fetch; metrics, segmenter and utility write as compare does."""
    tested = {name.partition(":")[0] for name in STAGES} | {
        "fetch",
        "weights",
        "metrics",
        "segmenter",
        "utility",
    }
    assert tested == {name for name in stages.names() if hasattr(stages.module_of(name), "outputs")}


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGTERM], [signal.SIGTERM]])
def test_figures_that_are_stopped_while_they_are_drawn_remove_their_temporary_files(copy, signals):
    """A workflow engine sends SIGTERM, alone or right after Ctrl-C."""
    folder = copy / "tiny" / "figures"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "slimdiff", "figures", "--config", str(copy / "study.json")]
    # Its standard error is a pipe whose other end is closed, as after Ctrl-C of the workflow.
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        process.stderr.close()
        while not partials(folder) and process.poll() is None:
            pass
        for number in signals:
            process.send_signal(number)
        assert process.wait(timeout=300) == 128 + signals[0]
    assert partials(folder) == []
