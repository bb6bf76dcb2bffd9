"""Fetching side by side, stopped half-way, and onto a disk that takes no more."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import pytest
from helpers.fetch_place import BASE, IMAGE, TABLE, corrupt, manifest_of

from slimdiff.data.fetch import dataset
from slimdiff.data.fetch.download import FolderError, partial_of
from slimdiff.data.participants import DataError


def test_connections_are_side_by_side_and_no_more_than_allowed(place, constants, monkeypatch):
    # The server answers only when three requests are there; a fourth file would never be answered alone.
    constants(ATTEMPTS=1)
    monkeypatch.setattr(dataset, "CONNECTIONS", 3)
    del place.contents[TABLE]
    place.publish()
    place.site.meeting = threading.Barrier(3, timeout=60)
    place.fetch()
    assert not place.wrong()
    shutil.rmtree(place.root)
    place.site.meeting = threading.Barrier(3, timeout=0.3)
    monkeypatch.setattr(dataset, "CONNECTIONS", 2)
    with pytest.raises(DataError):
        place.fetch()


def test_nothing_unfinished_ever_has_its_final_name(place, constants):
    """A watcher looks all the while that slow and broken answers come."""
    for path in place.contents:
        place.fault(path, ("cut", 700), 500, ("content", corrupt(place.contents[path])), ("cut", 900))
    seen, over = [], threading.Event()

    def watch():
        while not over.is_set():
            for path, data in place.contents.items():
                target = place.root / path
                if target.is_file() and target.read_bytes() != data:
                    seen.append(path)

    watcher = threading.Thread(target=watch)
    watcher.start()
    constants(ATTEMPTS=9, WAIT_S=0.01)
    place.fetch()
    over.set()
    watcher.join()
    assert not place.wrong() and seen == []


def test_a_stopped_run_leaves_whole_files_only(place):
    """Ctrl-C while a server is silent on two connections: the process ends at once, and the next asks for these two."""
    second = "sub-2/anat/sub-2_FLAIR.nii.gz"
    place.fault(IMAGE, ("silent", 120_000))
    place.fault(second, ("silent", 0))
    files = [(str(f.path), f.size, f.sha256) for f in manifest_of(place.contents, "").files]
    script = f"""
import signal
from pathlib import Path, PurePosixPath
from slimdiff.config.data import FetchConfig
from slimdiff.data.fetch.dataset import fetch
from slimdiff.data.fetch.download import File, Manifest
# A job in a shell's background begins with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
files = tuple(File(PurePosixPath(path), size, digest) for path, size, digest in {files!r})
manifest = Manifest("made", "1.0", "10.0/made", {place.site.url!r}, files, "5" * 64)
fetch(FetchConfig(dataset="ds004199"), Path({str(place.root)!r}), Path({str(place.record)!r}), None, manifest)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    partial = partial_of(place.root / IMAGE)
    until = time.monotonic() + 300
    while (
        not place.asked(second)
        or place.wrong() != [IMAGE, second]
        or not partial.is_file()
        or partial.stat().st_size < 65_536
    ):
        assert time.monotonic() < until and process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    try:
        # Much less than the silent server's time limit.
        _, said = process.communicate(timeout=50)
    finally:
        process.kill()
    assert process.returncode not in (0, None), said
    assert not place.record.exists() and not place.partials()
    names = {path.relative_to(place.root).as_posix() for path in place.root.rglob("*") if path.is_file()}
    assert names == set(place.contents) - {IMAGE, second}
    place.site.asked.clear()
    place.fetch()
    assert sorted(asked.path.removeprefix(BASE) for asked in place.site.asked) == [IMAGE, second]
    assert not place.wrong()


def test_two_runs_into_one_folder_take_turns(place, constants, capsys):
    constants(TIMEOUT_S=1.0)
    place.fault(IMAGE, ("silent", 1_000))
    raised = []

    def run():
        try:
            place.fetch()
        except Exception as error:
            raised.append(error)

    first, second = (threading.Thread(target=run) for _ in range(2))
    first.start()
    while not place.asked(IMAGE):
        time.sleep(0.01)
    second.start()
    first.join()
    second.join()
    assert not raised and not place.wrong()
    assert len(place.asked(IMAGE)) == 2
    assert all(len(place.asked(path)) == 1 for path in place.contents if path != IMAGE)
    assert "waiting for its end" in capsys.readouterr().err


def test_a_disk_too_small_is_known_before_the_first_byte(place, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = sum(map(len, place.contents.values()))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed - 1))
    with pytest.raises(DataError) as raised:
        place.fetch()
    assert f"{place.root}: expected {needed / 1e6:.1f} MB of free space, found" in str(raised.value)
    assert place.site.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed))
    place.fetch()
    assert not place.wrong()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on the size of files")
def test_a_folder_that_takes_no_more_is_named_and_ends_the_run(place):
    """The limit of the process on the size of files stands in for a full disk: the same write fails. Python ignores
    the signal that the limit sends."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(FolderError, match=r"sub-.*_FLAIR\.nii\.gz: cannot be written: File too large"):
            place.fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not place.record.exists() and not place.partials()
    place.fetch()
    assert not place.wrong()


def test_a_folder_where_a_file_belongs_is_named(place):
    (place.root / IMAGE).mkdir(parents=True)
    with pytest.raises(FolderError, match=r"sub-1_FLAIR\.nii\.gz: cannot be written"):
        place.fetch()
    assert not place.record.exists() and not list((place.root / IMAGE).iterdir())


def test_a_file_where_a_folder_belongs_is_named(place):
    place.root.mkdir()
    (place.root / "sub-1").write_text("a file")
    with pytest.raises(FolderError, match=r"sub-1_FLAIR\.nii\.gz: cannot be written"):
        place.fetch()


def test_a_file_where_the_dataset_s_folder_belongs_is_named(place):
    place.root.write_text("a file")
    with pytest.raises(DataError, match=r"data\.root: cannot create the folder .*data"):
        place.fetch()
