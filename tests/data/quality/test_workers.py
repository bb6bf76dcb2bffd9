"""Worker processes of quality control end with their parent, killed or stopped, and leave its pipes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from helpers.kills import partials
from helpers.synthetic import study_mapping

from slimdiff.files import seal_of

# The command `slimdiff participants`, whose workers stop in the middle of their work: a file is half-written.
COMMAND = """
import os, signal, sys, threading
from pathlib import Path
if __name__ != "__main__":
    from slimdiff.data.quality import measure
    from slimdiff.files import replacing

    def never_ends(participant, data):
        folder = Path(os.environ["MARKERS"])
        with replacing(measure.record_path(participant, Path(os.environ["QUALITY"]))) as half:
            half.write_text("half")
            (folder / str(os.getpid())).touch()
            threading.Event().wait()

    measure.measure_volume = never_ends
else:
    from slimdiff.cli import run_stage

    sys.exit(run_stage("participants", sys.argv[1:]))
"""


@pytest.fixture
def started(bids_root, tmp_path):
    """The command with two workers in a group of its own, as soon as both work; and the folder of its measurements."""
    values = study_mapping(bids_root, tmp_path / "results")
    (tmp_path / "study.json").write_text(json.dumps(values))
    (tmp_path / "command.py").write_text(COMMAND)
    markers, quality = tmp_path / "markers", tmp_path / "results" / "tiny" / "quality"
    markers.mkdir()
    command = [sys.executable, str(tmp_path / "command.py"), "--config", str(tmp_path / "study.json")]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MARKERS": str(markers), "QUALITY": str(quality)},
        start_new_session=True,
    )
    while len(list(markers.iterdir())) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    yield process, quality
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_workers_end_when_their_parent_is_killed(started, bids_root, tmp_path):
    process, quality = started
    process.kill()
    # The pipe ends once no process has it open: without this, a workflow waits for ever.
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert len(partials(quality)) == 2
    # The next run removes what they left half-written, and is complete.
    command = [sys.executable, "-m", "slimdiff", "participants", "--config", str(tmp_path / "study.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert partials(quality) == [] and (quality.parent / "participants.tsv").is_file()
    seals = [seal_of(quality.parent / name).name for name in ("participants.tsv", "quality.tsv")]
    assert sorted(path.name for path in quality.parent.glob(".*")) == seals


@pytest.mark.parametrize("to_the_group", [True, False])
def test_ctrl_c_ends_workers_and_parent_in_one_sentence(started, to_the_group):
    """A terminal sends Ctrl-C to all processes, `kill -INT` to the parent alone."""
    process, quality = started
    (os.killpg if to_the_group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert "Traceback" not in err, err
    said = [line for line in err.splitlines() if "stopped" in line]
    assert said == [
        "slimdiff-participants: stopped; finished measurements are kept; run it again for the others"
    ]
    assert partials(quality) == []
