"""Fetching from a server that misbehaves: a file is right or it is not there."""

import gzip
import threading

import pytest
from helpers.fetch_place import BASE, IMAGE, TABLE, manifest_of

from slimdiff.data.fetch import dataset
from slimdiff.data.fetch.download import partial_of
from slimdiff.data.participants import DataError


def test_a_connection_that_is_cut_is_tried_again(place):
    place.fault(IMAGE, ("cut", 100_000), ("cut", 50_000))
    place.fetch()
    assert not place.wrong() and not place.partials()
    assert [(asked.range, asked.sent) for asked in place.asked(IMAGE)] == [
        (None, 100_000),
        (None, 50_000),
        (None, 300_000),
    ]


def test_a_second_run_asks_only_for_the_files_that_failed(place, constants):
    constants(ATTEMPTS=1)
    place.fault(IMAGE, ("cut", 100_000))
    with pytest.raises(DataError, match="the connection was cut before the file was complete"):
        place.fetch()
    assert place.wrong() == [IMAGE] and not place.record.exists() and not place.partials()
    place.site.asked.clear()
    place.fetch()
    assert [(asked.path, asked.range) for asked in place.site.asked] == [(BASE + IMAGE, None)]
    assert not place.wrong()


@pytest.mark.parametrize("length", [100_000, 300_000, 300_007])
@pytest.mark.parametrize("done", [False, True])
def test_a_partial_file_of_a_killed_run_is_removed(place, length, done):
    if done:
        place.fetch()
    partial = partial_of(place.root / IMAGE)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(bytes(length))
    place.fetch()
    assert [asked.range for asked in place.asked(IMAGE)] == [None]
    assert not place.wrong() and not place.partials()


def test_a_packed_file_stays_packed(place):
    """Some servers say that a .nii.gz file is text that they packed."""
    place.publish(**{IMAGE: gzip.compress(bytes(1000))})
    place.fault(IMAGE, "packed")
    place.fetch()
    assert not place.wrong() and len(place.asked(IMAGE)) == 1


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
def test_a_fault_that_passes_is_survived(place, constants, fault):
    constants(TIMEOUT_S=0.3)
    place.fault(IMAGE, fault)
    place.fetch()
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
        (500, "HTTP 500 Internal Server Error (in 3 attempts): ", 3),
        (("content", bytes(300_000)), "wrong content: expected sha256 ", 3),
        (("content", bytes(7)), "wrong size: expected 300000 bytes, found 7 (in 3 attempts): ", 3),
        ("endless", "wrong size: expected 300000 bytes, found more (in 3 attempts): ", 3),
        (("cut", 10), "the connection was cut before the file was complete (in 3 attempts): ", 3),
        (("silent", 0), "no byte for 0.2 s (in 3 attempts): ", 3),
    ],
)
def test_a_fault_that_stays_is_named_and_the_others_are_kept(place, constants, fault, words, tries):
    constants(TIMEOUT_S=0.2)
    place.fault(IMAGE, *[fault] * 9)
    with pytest.raises(DataError) as raised:
        place.fetch()
    message = str(raised.value)
    assert words in message and f": {IMAGE}\n" in message
    assert "1 of 4 files could not be downloaded" in message and place.site.url in message
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
    assert f"  HTTP 502 Bad Gateway (in 3 attempts): {second}" in lines
    assert place.wrong() == [TABLE, IMAGE, second]


@pytest.fixture
def waits(monkeypatch):
    """Seconds of all waits between attempts, none of which is waited."""
    seen, wait = [], threading.Event.wait

    def noted(event, timeout=None):
        if timeout is None:
            return wait(event)
        seen.append(timeout)
        return event.is_set()

    monkeypatch.setattr(threading.Event, "wait", noted)
    return seen


def test_waits_double_from_attempt_to_attempt(place, constants, waits):
    constants(WAIT_S=0.05, ATTEMPTS=5)
    place.fault(TABLE, *[500] * 4)
    place.fetch()
    assert [seconds for seconds in waits if seconds] == [0.05 * factor for factor in (1, 2, 4, 8)]
    assert len(place.asked(TABLE)) == 5


def test_a_server_that_does_not_answer_is_given_up_at_once(place, constants, monkeypatch, waits):
    constants(WAIT_S=0.05)
    monkeypatch.setattr(dataset, "CONNECTIONS", 2)
    many = {f"sub-{number:03d}/image.nii.gz": b"x" for number in range(200)}
    manifest = manifest_of(many, "http://127.0.0.1:9/pub?key=secret")  # the port discard: nothing listens
    with pytest.raises(DataError, match="Connection refused") as raised:
        place.fetch(manifest)
    # Each of 200 files would wait twice; the two connections have each tried one or two.
    assert len([seconds for seconds in waits if seconds]) <= 8
    assert "200 of 200 files" in str(raised.value) and "did not answer: sub-" in str(raised.value)
    assert "secret" not in str(raised.value)
