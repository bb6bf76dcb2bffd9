"""Fetching from a server that misbehaves: what comes is right or does not come, and nothing is fetched twice."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from local_server import serving

from slimdiff.config.data import FetchConfig
from slimdiff.data.download import FolderError, address, checked_base, partial_of
from slimdiff.data.fetch import fetch
from slimdiff.data.manifest import File, Manifest, read_manifest
from slimdiff.data.participants import DataError

IMAGE = "sub-1/anat/sub-1_FLAIR.nii.gz"
TABLE = "participants.tsv"
T1W = "sub-1/anat/sub-1_T1w.nii.gz"
BASE = "pub/"


def manifest_of(contents: dict[str, bytes], base_url: str) -> Manifest:
    files = [
        File(PurePosixPath(path), len(data), hashlib.sha256(data).hexdigest())
        for path, data in contents.items()
    ]
    return Manifest("made", "1.0", "10.0/made", base_url, tuple(files), "5" * 64)


class Place:
    """A small dataset, the server that has it, and the folder where it goes."""

    def __init__(self, site, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.site, self.root, self.record = site, folder / "data", folder / "results" / "fetched.json"
        self.contents = {
            TABLE: b"participant_id\nsub-1\n",
            IMAGE: rng.bytes(300_000),
            "sub-2/anat/sub-2_FLAIR.nii.gz": rng.bytes(200_000),
            "sub-2/anat/sub-2_FLAIR_roi.nii.gz": rng.bytes(1_000),
        }
        self.publish()

    def publish(self, **more: bytes) -> None:
        self.contents |= more
        self.site.contents = {BASE + path: data for path, data in self.contents.items()}

    def fault(self, path: str, *faults) -> None:
        self.site.faults[BASE + path] = list(faults)

    def asked(self, path: str) -> list:
        return self.site.requests(BASE + path)

    def fetch(self, root: Path | None = None, manifest: Manifest | None = None, **settings) -> None:
        quick = {"dataset": "ds004199", "wait_s": 0.0, "timeout_s": 5.0, "attempts": 3, **settings}
        manifest = manifest or manifest_of(self.contents, self.site.url)
        fetch(FetchConfig(**quick), root or self.root, self.record, manifest)

    def wrong(self) -> list[str]:
        """Files that are not there, or not as they should be."""
        return [
            path
            for path, data in self.contents.items()
            if not (self.root / path).is_file() or (self.root / path).read_bytes() != data
        ]

    def partials(self) -> list[Path]:
        return sorted(self.root.rglob(".*.part"))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def place(tmp_path):
    with serving() as site:
        yield Place(site, tmp_path)


def test_everything_comes_once_and_the_record_says_so(place):
    place.fetch()
    assert not place.wrong() and not place.partials()
    assert [len(place.asked(path)) for path in place.contents] == [1, 1, 1, 1]
    assert json.loads(place.record.read_text()) == {
        "dataset": "made",
        "version": "1.0",
        "doi": "10.0/made",
        "base_url": place.site.url,
        "files": 4,
        "bytes": sum(map(len, place.contents.values())),
        "manifest_sha256": "5" * 64,
    }


def test_what_is_right_is_not_fetched_again_and_what_is_wrong_or_gone_is(place):
    place.fetch()
    place.record.unlink()
    place.site.asked.clear()
    place.fetch()
    assert place.site.asked == [] and place.record.is_file()
    same_size = bytearray(place.contents[IMAGE])
    same_size[1000] ^= 1
    (place.root / IMAGE).write_bytes(same_size)
    (place.root / TABLE).write_bytes(b"participant_id\n")
    (place.root / "sub-2/anat/sub-2_FLAIR_roi.nii.gz").unlink()
    place.fetch()
    assert sorted(asked.path.removeprefix(BASE) for asked in place.site.asked) == [
        TABLE,
        IMAGE,
        "sub-2/anat/sub-2_FLAIR_roi.nii.gz",
    ]
    assert not place.wrong()


def test_a_wrong_file_stays_until_the_right_one_is_whole(place):
    (place.root / IMAGE).parent.mkdir(parents=True)
    (place.root / IMAGE).write_bytes(b"old")
    place.fault(IMAGE, 404)
    with pytest.raises(DataError, match="HTTP 404"):
        place.fetch()
    assert (place.root / IMAGE).read_bytes() == b"old"
    place.fetch()
    assert not place.wrong()


def test_the_t1w_images_come_only_when_they_are_wanted(place):
    place.publish(**{T1W: b"t1w" * 100})
    place.fetch()
    assert place.wrong() == [T1W] and not place.asked(T1W)
    assert json.loads(place.record.read_text())["files"] == 4
    place.fetch(t1w=True)
    assert not place.wrong() and len(place.site.asked) == 5
    assert json.loads(place.record.read_text())["files"] == 5


def test_a_connection_that_is_cut_goes_on_where_it_was(place):
    place.fault(IMAGE, ("cut", 100_000), ("cut", 50_000))
    place.fetch()
    assert not place.wrong()
    assert [(asked.range, asked.sent) for asked in place.asked(IMAGE)] == [
        (None, 100_000),
        ("bytes=100000-", 50_000),
        ("bytes=150000-", 150_000),
    ]


def test_a_second_run_asks_only_for_the_rest(place):
    place.fault(IMAGE, ("cut", 100_000))
    with pytest.raises(DataError, match="cut off after 100000 of 300000 bytes"):
        place.fetch(attempts=1)
    assert place.wrong() == [IMAGE] and not place.record.exists()
    assert place.partials() == [partial_of(place.root / IMAGE)]
    assert place.partials()[0].read_bytes() == place.contents[IMAGE][:100_000]
    place.site.asked.clear()
    place.fetch()
    assert [(asked.range, asked.sent) for asked in place.site.asked] == [("bytes=100000-", 200_000)]
    assert not place.wrong() and not place.partials()


@pytest.mark.parametrize(
    ("fault", "ranges"),
    [
        # The whole file in answer to a range: used as it is.
        ("no range", ["bytes=100000-"]),
        (416, ["bytes=100000-", None]),
        # A part from elsewhere is not appended.
        ("wrong range", ["bytes=100000-", "bytes=100000-"]),
    ],
)
def test_a_server_that_cannot_go_on_is_asked_anew(place, fault, ranges):
    partial = partial_of(place.root / IMAGE)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(place.contents[IMAGE][:100_000])
    place.fault(IMAGE, fault)
    place.fetch()
    assert [asked.range for asked in place.asked(IMAGE)] == ranges
    assert not place.wrong() and not place.partials()


@pytest.mark.parametrize(
    ("length", "ranges"), [(100_000, ["bytes=100000-", None]), (300_000, [None]), (300_007, [None])]
)
def test_a_partial_file_of_something_else_is_found_out(place, length, ranges):
    """Shorter, as long, and longer than the file."""
    partial = partial_of(place.root / IMAGE)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(length))
    place.fetch()
    assert [asked.range for asked in place.asked(IMAGE)] == ranges
    assert not place.wrong() and not place.partials()


def test_a_whole_partial_file_is_only_given_its_name(place):
    partial = partial_of(place.root / IMAGE)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(place.contents[IMAGE])
    place.fetch()
    assert not place.asked(IMAGE) and not place.wrong()


def corrupt(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "fault",
    [
        500,
        503,
        429,
        "endless",
        ("content", b"a page to log in"),
        ("content", bytes(300_000)),
        ("silent", 1_000),
    ],
)
def test_a_fault_that_passes_is_survived(place, fault):
    place.fault(IMAGE, fault)
    place.fetch(timeout_s=0.3)
    assert not place.wrong() and not place.partials()
    assert len(place.asked(IMAGE)) == 2


def test_a_file_without_its_length_comes_too(place):
    place.fault(IMAGE, "no length")
    place.fetch()
    assert not place.wrong() and len(place.asked(IMAGE)) == 1


@pytest.mark.parametrize(
    ("fault", "words", "tries"),
    [
        (404, "HTTP 404 Not Found: ", 1),
        (403, "HTTP 403 Forbidden: ", 1),
        (500, "HTTP 500 Internal Server Error (in 3 tries): ", 3),
        (("content", bytes(300_000)), "wrong content: sha256 ", 3),
        (("content", bytes(7)), "wrong size: 7 bytes, wanted are 300000 (in 3 tries): ", 3),
        ("endless", "more than the 300000 bytes that are wanted (in 3 tries): ", 3),
        (("silent", 0), "no byte for 0.2 s (in 3 tries): ", 3),
    ],
)
def test_a_fault_that_stays_is_named_and_the_others_are_kept(place, fault, words, tries):
    place.fault(IMAGE, *[fault] * 9)
    with pytest.raises(DataError) as raised:
        place.fetch(timeout_s=0.2)
    message = str(raised.value)
    assert words in message and f": {IMAGE}\n" in message
    assert "1 of 4 files could not be fetched" in message and place.site.url in message
    assert "Run again" in message and "data.fetch.base_url" in message
    assert place.wrong() == [IMAGE] and not place.record.exists()
    assert 9 - len(place.site.faults[BASE + IMAGE]) == tries
    place.site.faults.clear()
    place.site.asked.clear()
    place.fetch()
    assert [asked.path for asked in place.site.asked if asked.path != BASE + IMAGE] == []
    assert not place.wrong()


def test_every_file_that_failed_is_named_with_its_cause(place):
    del place.site.contents[BASE + TABLE]
    del place.site.contents[BASE + IMAGE]
    second = "sub-2/anat/sub-2_FLAIR.nii.gz"
    place.fault(second, *[502] * 3)
    with pytest.raises(DataError) as raised:
        place.fetch()
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{place.root}: 3 of 4 files")
    assert f"  HTTP 404 Not Found: {TABLE}, {IMAGE}" in lines
    assert f"  HTTP 502 Bad Gateway (in 3 tries): {second}" in lines
    assert place.wrong() == [TABLE, IMAGE, second]


def test_waits_double_from_try_to_try(place):
    place.fault(TABLE, *[500] * 4)
    begin = time.monotonic()
    place.fetch(wait_s=0.05, attempts=5)
    assert 0.05 * (1 + 2 + 4 + 8) <= time.monotonic() - begin < 5
    assert len(place.asked(TABLE)) == 5


def test_a_server_that_nobody_can_reach_is_given_up_at_once(place):
    many = {f"sub-{number:03d}/image.nii.gz": b"x" for number in range(200)}
    manifest = manifest_of(many, "http://127.0.0.1:9/pub")  # discard: nobody listens
    begin = time.monotonic()
    with pytest.raises(DataError, match="Connection refused") as raised:
        place.fetch(manifest=manifest, wait_s=0.05, connections=2)
    # Waits of all files one after the other would be 15 s.
    assert time.monotonic() - begin < 5
    assert "200 of 200 files" in str(raised.value) and "could not be reached: sub-" in str(raised.value)


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
from pathlib import Path, PurePosixPath
from slimdiff.config.data import FetchConfig
from slimdiff.data.fetch import fetch
from slimdiff.data.manifest import File, Manifest
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
    from slimdiff.data.download import _unwritable

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


@pytest.mark.parametrize(
    ("base", "path", "whole"),
    [
        ("https://a.org", "b/c.gz", "https://a.org/b/c.gz"),
        ("https://a.org/", "b/c.gz", "https://a.org/b/c.gz"),
        ("http://a.org:81/x/y/", "b c#1?%.gz", "http://a.org:81/x/y/b%20c%231%3F%25.gz"),
        ("https://a.org/x?key=1&d=a%2Fb", "b/ü", "https://a.org/x/b/%C3%BC?key=1&d=a%2Fb"),
        ("https://a.org/x y", "b", "https://a.org/x%20y/b"),
        ("https://a.org/x%20y", "b", "https://a.org/x%20y/b"),
    ],
)
def test_addresses_are_the_base_s_path_and_the_quoted_file_s(base, path, whole):
    assert address(checked_base(base), PurePosixPath(path)) == whole


@pytest.mark.parametrize(
    "base",
    ["ftp://a.org/x", "file:///etc", "s3://openneuro.org/x", "a.org/x", "https:///x", "http://a.org:x/"],
)
def test_other_addresses_are_refused(place, base):
    with pytest.raises(DataError, match=r"data\.fetch\.base_url: .*https:// or http://"):
        place.fetch(base_url=base)
    assert not place.root.exists()


def test_a_password_in_the_address_is_refused_and_not_repeated(place):
    with pytest.raises(DataError) as raised:
        place.fetch(base_url="https://me:secret@a.org/x")
    assert "a.org" in str(raised.value) and "secret" not in str(raised.value)


def test_another_place_with_odd_names_and_a_signature(place):
    odd = "sub-1/anat/a name#1?100%.json"
    place.publish(**{odd: b"{}"})
    manifest = manifest_of(place.contents, "http://127.0.0.1:9/nowhere")
    place.fetch(manifest=manifest, base_url=place.site.url + "/?signature=secret")
    assert not place.wrong()
    assert place.asked(odd)[0].target == "/pub/sub-1/anat/a%20name%231%3F100%25.json?signature=secret"
    record = json.loads(place.record.read_text())
    assert record["base_url"] == place.site.url + "/"


def test_a_proxy_of_the_environment_is_used(place, monkeypatch):
    monkeypatch.setenv("http_proxy", place.site.url.removesuffix("/pub"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    place.fetch(base_url="http://data.invalid/pub")
    assert not place.wrong()
    assert all(asked.target.startswith("http://data.invalid/pub/") for asked in place.site.asked)


def test_a_certificate_is_trusted_when_the_environment_says_so_and_never_tried_twice(tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    certificate = tmp_path / "both.pem"
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(certificate)]
    subject = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        *key,
        "-out",
        str(tmp_path / "certificate.pem"),
        "-days",
        "1",
        *subject,
    ]
    subprocess.run(command, check=True, capture_output=True)
    with certificate.open("ab") as stream:
        stream.write((tmp_path / "certificate.pem").read_bytes())
    with serving(certificate) as site:
        place = Place(site, tmp_path)
        begin = time.monotonic()
        with pytest.raises(DataError, match="certificate verify failed.*SSL_CERT_FILE"):
            place.fetch(wait_s=30)
        assert time.monotonic() - begin < 10 and site.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        place.fetch()
        assert not place.wrong()


def test_ds004199_by_its_command(tmp_path, shared_data):
    """A server with what is known of the dataset, everything but its images: the rest is kept, and all are named."""
    source = shared_data / "ds004199"
    study = tmp_path / "study.json"
    with serving() as site:
        for file in read_manifest("ds004199").files:
            name = file.path.name
            here = source / (name if len(file.path.parts) == 1 else f"sidecars/{name}")
            if here.is_file():
                site.contents[f"pub/{file.path}"] = here.read_bytes()
        fetching = {"dataset": "ds004199", "base_url": site.url}
        values = {"data": {"source": "bids", "root": str(tmp_path / "data"), "fetch": fetching}}
        study.write_text(json.dumps({"study": "tiny", "results_dir": str(tmp_path / "results"), **values}))
        command = [sys.executable, "-m", "slimdiff", "fetch", "--config", str(study)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "255 of 428 files could not be fetched" in done.stderr
    assert "HTTP 404" in done.stderr and "sub-00170_acq-" in done.stderr and "T1w" not in done.stderr
    assert (tmp_path / "data" / "participants.tsv").read_bytes() == (source / "participants.tsv").read_bytes()
    assert len(list((tmp_path / "data").glob("sub-*/anat/*_FLAIR.json"))) == 170
    assert not list((tmp_path / "data").rglob("*.nii.gz")) and not (tmp_path / "results").exists()
