"""Files are complete or absent; tables edited in a spreadsheet can still be read."""

import hashlib
import math

import numpy as np
import pytest

from slimdiff.files import ArrayWriter, read_table, replacing, sha256, write_table, write_text


@pytest.mark.parametrize("where", ["writing", "renaming"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, monkeypatch, where):
    target = tmp_path / "file"
    write_text(target, "old")

    def fail(*args):
        raise OSError("disk full")

    if where == "renaming":
        monkeypatch.setattr(type(target), "replace", fail)
    with pytest.raises(OSError, match="disk full"), replacing(target) as temporary:
        temporary.write_text("new")
        if where == "writing":
            fail()
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "old"


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "folder" / "file"
    write_text(target, "old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o044 == 0o044


def test_numbers_round_trip_and_missing_values_are_n_a(tmp_path):
    path = tmp_path / "t.tsv"
    write_table(path, [{"a": 1 / 3, "b": None}, {"a": math.nan, "b": "", "c": "left out"}], ("a", "b"))
    first, second = read_table(path)
    assert float(first["a"]) == pytest.approx(1 / 3, rel=1e-8)
    assert (first["b"], second["a"], second["b"]) == ("n/a", "n/a", "n/a")


def test_a_byte_order_mark_and_commas_are_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffparticipant_id,group\r\nsub-01,fcd\r\n".encode())
    assert read_table(path, ["participant_id"]) == [{"participant_id": "sub-01", "group": "fcd"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("a\tb\n1\n", "line 2: expected 2 cells, found 1"), ("a\n1\n", "no column b; found a")],
)
def test_a_broken_table_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path, ["b"])
    assert str(path) in str(caught.value)


def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"slices" * 100_000)
    assert sha256(tmp_path / "f") == hashlib.sha256(b"slices" * 100_000).hexdigest()


@pytest.mark.parametrize("count", [0, 1, 12345])
def test_arrays_appended_one_by_one_are_a_valid_npy_file(tmp_path, count):
    arrays = np.arange(count * 6, dtype=np.float16).reshape(count, 2, 3)
    with ArrayWriter(tmp_path / "grown.npy", (2, 3), np.float16) as writer:
        for array in arrays:
            writer.append(array)
    np.testing.assert_array_equal(np.load(tmp_path / "grown.npy", mmap_mode="r"), arrays)
    with ArrayWriter(tmp_path / "odd.npy", (2, 3), np.float16) as writer:
        with pytest.raises(
            ValueError, match=r"odd\.npy: expected an array of shape \(2, 3\), found \(3, 2\)"
        ):
            writer.append(np.zeros((3, 2), np.float16))
        writer.append(np.asfortranarray(np.arange(6).reshape(2, 3)))
    np.testing.assert_array_equal(np.load(tmp_path / "odd.npy"), [[[0, 1, 2], [3, 4, 5]]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "b\nKöln\n".encode("latin-1"), "not UTF-8 text"),
        ("t.tsv", "b\n1\n".encode("utf-16"), "not UTF-8 text"),
        ("t.tsv", b"b\n" + b"7" * 150_000 + b"\n", "field larger than field limit"),
        ("t.csv", b'b,c\n"1,2\n', "a quote of a CSV may be unclosed"),
    ],
)
def test_a_table_that_cannot_be_taken_apart_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
