"""F7: what is no JSON, or JSON that says a thing twice, is refused with its place."""

import json

import pytest
from helpers.spec_files import (
    DETAILED,
    refused,
    tree,
)

from slimdiff.generation.spec import SpecError, run_spec

UNREADABLE = {
    "broken JSON": ('{\n "format": "detailed",\n}', "spec.json: not JSON at line 3, column 1: "),
    "cut off": ('{"format": ', "spec.json: not JSON at line 1, column"),
    "two objects": ("{} {}", "spec.json: not JSON at line 1, column 4: Extra data"),
    "comment": ("// mine\n{}", "spec.json: not JSON at line 1, column 1"),
    "empty": (" \n", "spec.json: empty; a JSON object is wanted"),
    "a list": ("[1]", "spec.json#: found a list; an object {...} is wanted"),
    "null": ("null", "spec.json#: found null; an object"),
    "UTF-16": (json.dumps(DETAILED).encode("utf-16"), "spec.json: not UTF-8 text"),
    "deep": ("[" * 100_000, "spec.json: not readable as JSON: brackets"),
    "deep but readable": ('{"a":' + "[" * 30 + "]" * 30 + "}", "more than 20 levels deep"),
    "half a character": ('{"a": ["\\ud800"]}', "spec.json#/a/0: half a character"),
    "half a character in a key": ('{"\\udc00": 1}', "spec.json#/\\udc00: half a character"),
    "endless number": (
        '{"seed": ' + "9" * 5000 + "}",
        "spec.json: not readable as JSON: a number of thousands",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_f7_broken_json_is_refused_with_line_and_column(name, here):
    content, text = UNREADABLE[name]
    (line,) = refused(content, here)
    assert text in line


@pytest.mark.parametrize(
    ("path", "text"), [("absent.json", "absent.json: no such file"), (".", "a folder; the file")]
)
def test_f7_a_missing_file_is_refused(path, text, here):
    with pytest.raises(SpecError, match=text):
        run_spec(path)
    assert not tree(here)


def test_f7_keys_that_stand_twice_are_refused(here):
    text = json.dumps(DETAILED)[:-1] + ', "seed": 1, "seed": 2}'
    text = text.replace('"lesion": 3', '"lesion": 3, "lesion": 30')
    assert refused(text, here) == [
        f"spec.json#{place}: this key stands more than once in its object; once is wanted"
        for place in ("/samples/1/lesion", "/seed")
    ]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_f7_numbers_that_json_does_not_have_are_refused(number, here):
    (line,) = refused(json.dumps(DETAILED).replace('"lesion": 3', f'"lesion": {number}'), here)
    assert line.startswith("spec.json#/samples/1/lesion: found ")
