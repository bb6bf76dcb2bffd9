"""Fetching from a server that misbehaves: what comes is right or does not come."""

import time

import pytest
from helpers.fetch_place import BASE, IMAGE, TABLE, manifest_of

from slimdiff.data.fetch.download import partial_of
from slimdiff.data.participants import DataError


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
