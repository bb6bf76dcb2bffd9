"""A lock file has one holder; a holder that is gone blocks no one, on this machine or on another."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from slimdiff import locks
from slimdiff.locks import alone

HOLDER = """
import sys
from slimdiff.locks import alone
with alone(sys.argv[1], "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that asks for the lock, and holds it until `end`."""

    def __init__(self, path, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def wait_for_lock(self):
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> str:
        return self.process.communicate("")[1]


@pytest.fixture
def holders():
    found: list[Holder] = []

    def start(path, **environment):
        found.append(Holder(path, **environment))
        return found[-1]

    yield start
    for holder in found:
        if holder.process.poll() is None:
            holder.process.kill()
            holder.process.communicate()


def test_a_second_process_names_the_first_and_waits_for_its_end(tmp_path, holders):
    path = tmp_path / "state" / "lock"
    first = holders(path, SLURM_JOB_ID="77")
    first.wait_for_lock()
    second = holders(path)
    said = second.process.stderr.readline()
    assert f"training by process {first.process.pid} on {socket.gethostname()}, Slurm job 77" in said
    assert "waiting for its end" in said
    assert first.end() == ""
    second.wait_for_lock()
    second.end()
    assert list(path.parent.iterdir()) == []


def test_a_killed_holder_blocks_no_one(tmp_path, holders):
    path = tmp_path / "lock"
    first = holders(path)
    first.wait_for_lock()
    second = holders(path)
    second.process.stderr.readline()
    first.process.kill()
    second.wait_for_lock()
    second.process.kill()
    second.process.wait()
    # Its file is still there.
    assert path.is_file()
    third = holders(path)
    third.wait_for_lock()
    assert third.end() == ""


def elsewhere(path):
    path.write_text(json.dumps({"task": "training", "host": "elsewhere", "pid": os.getpid()}))


def test_a_holder_on_another_machine_is_waited_for_while_its_heart_beats(tmp_path, monkeypatch, capsys):
    """File locks of another machine may not be seen here: the time of the file decides, and its clock does not."""
    path = tmp_path / "lock"
    elsewhere(path)
    # An age by the clock of the other machine; each look of the waiting process finds another one.
    times = iter(range(1, 10**6))
    beats = threading.Event()
    looks, clock = [], [0.0]

    def look(seconds):
        looks.append(seconds)
        clock[0] += locks.SILENT_S / 2
        if not beats.is_set():
            os.utime(path, (next(times),) * 2)
        if len(looks) == 20:
            beats.set()

    monkeypatch.setattr(locks.time, "sleep", look)
    monkeypatch.setattr(locks.time, "monotonic", lambda: clock[0])
    with alone(path, "another training"):
        holder = json.loads(path.read_text())
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
    # Twenty looks with a heartbeat before each, two in silence, and one after signing.
    assert len(looks) == 23
    assert capsys.readouterr().err.count("training by process") == 1
    assert not path.exists()


def test_a_holder_that_was_taken_over_leaves_the_file_of_the_next(tmp_path):
    path = tmp_path / "lock"
    with alone(path, "training"):
        # Another machine signs the same file after 120 s without a heartbeat.
        elsewhere(path)
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_of_two_that_sign_without_file_locks_the_last_one_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_lock", lambda handle: None)
    path, looks = tmp_path / "lock", []

    def other_signs(seconds):
        looks.append(path.read_text())
        if len(looks) == 1:
            elsewhere(path)
        if len(looks) == 3:
            raise InterruptedError

    monkeypatch.setattr(locks.time, "sleep", other_signs)
    with pytest.raises(InterruptedError), alone(path, "training"):
        raise AssertionError("both hold the lock")
    assert [json.loads(text)["host"] for text in looks] == [socket.gethostname(), "elsewhere", "elsewhere"]


def test_a_process_that_waits_says_so_to_its_caller_after_each_look(tmp_path, holders):
    path, calls = tmp_path / "lock", []
    first = holders(path)
    first.wait_for_lock()

    def waiting():
        calls.append(first.process.poll())
        if len(calls) == 3:
            first.end()

    with alone(path, "training", waiting):
        assert len(calls) == 3


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    path = tmp_path / "lock"
    with alone(path, "training"):
        os.utime(path, (1, 1))
        while path.stat().st_mtime == 1:
            pass


def test_without_file_locks_the_process_and_its_heart_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_lock", lambda handle: None)
    path, ended = tmp_path / "lock", subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    with alone(path, "training"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getppid()}))

    def give_up(seconds):
        raise InterruptedError

    monkeypatch.setattr(locks.time, "sleep", give_up)
    with pytest.raises(InterruptedError), alone(path, "training"):
        pass


@pytest.mark.parametrize("content", ["", "half a {", "[]"])
def test_a_file_that_says_nothing_does_not_block_for_ever(tmp_path, monkeypatch, content):
    monkeypatch.setattr(locks, "SILENT_S", 0.0)
    (tmp_path / "lock").write_text(content)
    with alone(tmp_path / "lock", "training"):
        pass
    assert list(tmp_path.iterdir()) == []
