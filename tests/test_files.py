"""Files are complete or absent; tables edited in a spreadsheet can still be read."""

import errno
import hashlib
import json
import math
import re

import numpy as np
import pytest
from safetensors import SafetensorError

from slimdiff import files
from slimdiff.files import (
    NoSpace,
    read_object,
    read_table,
    remove_partials,
    replacing,
    seal_of,
    sha256,
    write_object,
    write_seal,
    write_table,
    write_text,
)
from slimdiff.stored_rows import ArrayWriter


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


@pytest.mark.parametrize("write", [lambda path: write_table(path, [{"a": 1}], ("a",)), write_seal])
def test_what_killed_processes_left_is_removed_and_copies_of_the_user_stay(tmp_path, monkeypatch, write):
    table = tmp_path / "folds.tsv"
    table.write_text("a\n")
    kept = [
        ".folds.tsv.original",
        ".folds.tsv.20260131",
        ".folds.tsv.my_notes.tsv",
        ".other.tsv.0a1b2c3d.tsv",
    ]
    for name in kept:
        (tmp_path / name).touch()
    before = {path.name for path in tmp_path.iterdir()}
    # As after SIGKILL: nothing is renamed, nothing is removed.
    with monkeypatch.context() as patch:
        patch.setattr(type(table), "replace", lambda *_: None)
        patch.setattr(type(table), "unlink", lambda *_, **__: None)
        write(table)
    left = {path.name for path in tmp_path.iterdir()} - before
    assert any(name.startswith("..folds.tsv.sha256.") for name in left)
    remove_partials(table)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError("262144 requested and 12288 written"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), True),
        (SafetensorError("I/O error: File too large (os error 27)"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (ValueError("sub-01: no space left, 3 requested and 2 written, (os error 28)"), False),
        (ValueError("line 3: requested and found differ: file too large"), False),
        (RuntimeError("2 samples were requested and 1 was found; file too large for the grid"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_only_an_error_of_a_full_disk_is_one(tmp_path, error, full):
    with pytest.raises(NoSpace if full else type(error)) as caught, replacing(tmp_path / "file"):
        raise error
    assert full or caught.value is error


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


def test_a_table_that_was_changed_is_told_from_the_written_one(tmp_path):
    path = tmp_path / "t.tsv"
    write_table(path, [{"a": 1}, {"a": 2}], ("a",))
    assert read_table(path) == [{"a": "1"}, {"a": "2"}]
    # The seal is what `sha256sum --check` reads.
    assert seal_of(path).read_text() == f"{sha256(path)}  t.tsv\n"
    for text in ("a\n1\n", "a\n1\n3\n", "a\n1\n2", ""):
        path.write_text(text)
        with pytest.raises(
            ValueError, match=rf"t\.tsv: its content is not .*delete {re.escape(str(seal_of(path)))}"
        ):
            read_table(path)
    # The advice works.
    path.write_text("a\n3\n")
    seal_of(path).unlink()
    assert read_table(path) == [{"a": "3"}]
    write_table(path, [{"a": 4}], ("a",))
    assert read_table(path) == [{"a": "4"}]


def test_a_table_for_others_has_no_hidden_file_and_takes_an_old_one_away(tmp_path):
    path = tmp_path / "t.tsv"
    write_table(path, [{"a": 1}], ("a",))
    write_table(path, [{"a": 2}], ("a",), sealed=False)
    assert [other.name for other in tmp_path.iterdir()] == ["t.tsv"]
    assert read_table(path) == [{"a": "2"}]


def test_a_table_that_was_stopped_before_its_seal_is_read(tmp_path, monkeypatch):
    path = tmp_path / "t.tsv"
    write_table(path, [{"a": 1}], ("a",))
    monkeypatch.setattr(files, "write_text", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_table(path, [{"a": 2}], ("a",))
    assert read_table(path) == [{"a": "2"}]


def test_a_json_file_is_read_as_it_was_written_and_a_change_is_found(tmp_path):
    path = tmp_path / "o.json"
    values = {"a": (1, 2.5), "b": {10: None, 9: "ä"}, "c": [True, -0.0, 1e-300]}
    write_object(path, values)
    assert read_object(path) == json.loads(json.dumps(values))
    text = path.read_text()
    for old, new in (("2.5", "2.4"), ("true", "null"), ('"9"', '"8"'), ('"checksum": "', '"checksum": "0')):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"o\.json: .*damaged or edited; delete it"):
            read_object(path)
    # Layout is no content; an earlier version wrote no checksum.
    path.write_text(json.dumps(json.loads(text)))
    assert read_object(path) == json.loads(json.dumps(values))
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
