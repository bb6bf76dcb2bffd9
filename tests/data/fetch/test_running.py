"""Fetching side by side, stopped half-way, and onto a disk that takes no more."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from helpers.fetch_place import IMAGE, TABLE, corrupt, manifest_of

from slimdiff.data.fetch.download import FolderError, partial_of
from slimdiff.data.participants import DataError


def test_connections_are_side_by_side_and_no_more_than_wanted(place):
    # The server answers nobody before three have asked; a fourth file would never be answered alone.
    del place.contents[TABLE]
    place.publish()
    place.site.meeting = threading.Barrier(3, timeout=5)
    place.fetch(connections=3, attempts=1)
    assert not place.wrong()
    shutil.rmtree(place.root)
    place.site.meeting = threading.Barrier(3, timeout=0.3)
    with pytest.raises(DataError):
        place.fetch(connections=2, attempts=1)


def test_nothing_unfinished_ever_has_its_final_name(place):
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
    place.fetch(attempts=9, wait_s=0.01)
    over.set()
    watcher.join()
    assert not place.wrong() and seen == []


def test_a_stopped_run_goes_on_where_it_was(place):
    """Ctrl-C while a server is silent on two connections: the process ends at once, and the next asks for the rest."""
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
fetch(FetchConfig(dataset="ds004199", timeout_s=20), Path({str(place.root)!r}), Path({str(place.record)!r}), manifest)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    partial = partial_of(place.root / IMAGE)
    until = time.monotonic() + 30
    while (
        not place.asked(second)
        or place.wrong() != [IMAGE, second]
        or not partial.is_file()
        or partial.stat().st_size < 120_000
    ):
        assert time.monotonic() < until and process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    try:
        _, said = process.communicate(timeout=15)
    finally:
        process.kill()
    assert time.monotonic() - begin < 5 and process.returncode not in (0, None)
    assert "run again" in said
    assert not place.record.exists() and partial.read_bytes() == place.contents[IMAGE][:120_000]
    place.site.asked.clear()
    place.fetch()
    assert [(asked.range, asked.sent) for asked in place.site.asked if asked.range] == [
        ("bytes=120000-", 180_000)
    ]
    assert not place.wrong()


def test_two_runs_into_one_folder_take_turns(place, capsys):
    place.fault(IMAGE, ("silent", 1_000))
    raised = []

    def run():
        try:
            place.fetch(timeout_s=1.0)
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
    assert [asked.range for asked in place.asked(IMAGE)] == [None, "bytes=1000-"]
    assert all(len(place.asked(path)) == 1 for path in place.contents if path != IMAGE)
    assert "waiting for its end" in capsys.readouterr().err


def test_a_disk_too_small_is_known_before_the_first_byte(place, monkeypatch):
    usage = namedtuple("usage", "total used free")
    first_part = partial_of(place.root / IMAGE)
    first_part.parent.mkdir(parents=True)
    first_part.write_bytes(place.contents[IMAGE][:100_000])
    needed = sum(map(len, place.contents.values())) - 100_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed - 1))
    with pytest.raises(DataError) as raised:
        place.fetch()
    assert f"{place.root}: {needed / 1e6:.1f} MB" in str(raised.value) and "free" in str(raised.value)
    assert place.site.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed))
    place.fetch()
    assert not place.wrong()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="wants a limit on the size of files")
def test_a_folder_that_takes_no_more_is_named_and_ends_the_run(place):
    """The limit of the process on the size of files stands in for a full disk: the same write fails."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(
            FolderError, match=r"sub-.*_FLAIR\.nii\.gz\.part: cannot be written: File too large"
        ):
            place.fetch(attempts=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert not place.record.exists()
    place.fetch()
    assert not place.wrong()


def test_a_full_disk_names_its_folder():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    from slimdiff.data.fetch.download import _unwritable

    path = Path("data/sub-1/anat/.x.part")
    with pytest.raises(OSError) as raised, Path("/dev/full").open("wb", buffering=0) as stream:
        stream.write(b"x")
    assert str(_unwritable(raised.value, path)).startswith(f"{path.parent}: no space left")


def test_a_folder_where_a_file_belongs_is_named(place):
    (place.root / IMAGE).mkdir(parents=True)
    with pytest.raises(FolderError, match=r"sub-1_FLAIR\.nii\.gz: cannot be written"):
        place.fetch()
    assert not place.record.exists()


def test_a_file_where_the_dataset_s_folder_belongs_is_named(place):
    place.root.write_text("a file")
    with pytest.raises(DataError, match=r"data\.root: .*data cannot be made a folder"):
        place.fetch()
