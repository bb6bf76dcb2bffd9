"""Fetching: what comes is right, and nothing is fetched twice."""

import json

import pytest
from helpers.fetch_place import BASE, IMAGE, T1W, TABLE

from slimdiff.data.participants import DataError


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


def test_the_t1w_images_come_only_if_the_study_s_images_are_t1w(place):
    place.publish(**{T1W: b"t1w" * 100})
    place.fetch()
    assert place.wrong() == [T1W] and not place.asked(T1W)
    assert json.loads(place.record.read_text())["files"] == 4
    place.fetch(image_suffix="T1w")
    assert not place.wrong() and len(place.site.asked) == 5
    assert json.loads(place.record.read_text())["files"] == 5
