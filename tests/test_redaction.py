import json
from pathlib import Path

import pytest

from slimdiff.config import study_from_mapping
from slimdiff.redaction import folders_in, redacted, shown_text

CHANGED = {
    "https://u:p@h.example/p?X-Amz-Signature=s&token=t": "https://h.example/p",
    "https://u@h.example/p": "https://h.example/p",
    "https://h/x?sv=2020&sig=abc%3D": "https://h/x",
    "https://h/x?AWSAccessKeyId=A&Expires=1": "https://h/x",
    "https://h/x?X-Goog-Credential=c": "https://h/x",
    "https://h/x?private_token=t": "https://h/x",
    "https://h/x?apiKey=t": "https://h/x",
    "https://h/x#access_token=abc": "https://h/x",
    "https://h/x?q=abcdefghijklmnopqrstuvwxyz12": "https://h/x",
    "https://u:p/w?d@h/x": "https://h/x",
    "https://h:8080/a?token=t": "https://h:8080/a",
    "postgres://user:pw@db:5432/x": "postgres://db:5432/x",
    "see https://u:p@h/x, and ftp://a:b@i/y": "see https://h/x, and ftp://i/y",
    "token=abc and sigma=0.5, password=x y": "token=*** and sigma=0.5, password=*** y",
    "/home/anna": "~",
    "/home/anna/": "~",
    "/Users/anna/cohort": ".../cohort",
    "/root/a b/c": ".../c",
    "~": "~",
    "~/cohort": ".../cohort",
    "~anna": "~",
    r"C:\Users\anna\cohort": ".../cohort",
    "/scratch/anna/x.nii.gz: expected 3 axes": ".../x.nii.gz: expected 3 axes",
    "see /home/anna/my notes/x.txt now": "see .../my notes/x.txt now",
    "C:/Users/anna/x": ".../x",
    "see C:/Users/anna/x": "see .../x",
    "../../home/anna/x": ".../x",
    "file:///home/anna/x": "file://.../x",
    "see file:///mnt/anna/x, file:///home/anna": "see file://.../x, file://~",
    "sftp://anna@server/home/anna/cohort": "sftp://server/.../cohort",
    "sftp://server/home/anna/cohort": "sftp://server/.../cohort",
    "ssh://server:22/home/anna": "ssh://server:22/~",
    "server:/home/anna/cohort": "server:.../cohort",
    "rsync anna@server:/mnt/anna/cohort .": "rsync anna@server:.../cohort .",
    "root:/home/anna": "root:~",
    "https://user:1234/abc@h/x": "https://h/x",
    "password: hunter2": "password: ***",
    '{"password": "hunter2", "n": 1}': '{"password": "***", "n": 1}',
    "Authorization: Bearer abc": "Authorization: ***",
    "curl -H 'Authorization: Bearer abc' x": "curl -H 'Authorization: ***' x",
    "in /home/anna": "in ~",
    '{"root": "/home/anna/cohort"}': '{"root": ".../cohort"}',
    json.dumps("/home/änna/z/x"): '".../x"',
}
KEPT = [
    "data/cohort",
    "../cohort",
    "12/11/2020, mm/s, and/or",
    "see https://doi.org/10.1/x?y=1&page=3#frag",
    "https://site.example/home/news/x",
    "s3://bucket/key?versionId=3",
    "https://site.example/@person and https://h:8080/@person",
    "git@github.com:owner/repository.git",
    "study=tiny/variant=base/seed=0",
    "Warning: synthetic",
    "a < b & c > d </script><b>bold</b>",
    r"C:\data\new_",
    "sigma=0.5, design=3, keys=2, passes=3",
    "a signature: missing, tokens: 3, pass: 2 of 3",
    "sftp://server/data/cohort and s3://bucket/home/x/y",
    "https://h:8080/a/@person",
    "12:30, 3:/4, key:/value",
    "/",
    "",
]


@pytest.mark.parametrize("text", CHANGED)
def test_what_gives_access_or_names_a_folder_is_removed(text):
    assert redacted(text) == CHANGED[text]
    assert redacted(CHANGED[text]) == CHANGED[text]


@pytest.mark.parametrize("text", KEPT)
def test_everything_else_stays(text):
    assert redacted(text) == text


def test_nested_values_and_their_keys():
    found = redacted({"/home/anna/x": ["/home/anna/y", 1, None, ("~/z",)], "n": 0.5})
    assert found == {".../x": [".../y", 1, None, [".../z"]], "n": 0.5}


def test_known_folders_are_found_inside_of_texts_although_they_have_spaces():
    folders = folders_in(
        {"data": {"root": "/mnt/anna b/my data", "n": 1}, "results_dir": "/mnt/anna b/r", "x": "r"}
    )
    assert folders == {"/mnt/anna b/my data", "/mnt/anna b/r"}
    text = "a /mnt/anna b/my data/sub-01/f.nii.gz: bad, b /mnt/anna b/r/tiny, c /mnt/anna b/r"
    expected = "a .../my data/sub-01/f.nii.gz: bad, b .../r/tiny, c .../r"
    assert redacted(text, folders) == expected
    assert redacted(json.dumps({"x": "/mnt/anna b/my data"}), folders) == '{"x": ".../my data"}'


def test_a_home_in_an_unusual_place_has_no_name(monkeypatch):
    monkeypatch.setenv("HOME", "/mnt/people/anna b")
    assert Path.home() == Path("/mnt/people/anna b")
    assert redacted("/mnt/people/anna b") == "~"
    assert redacted("x /mnt/people/anna b/y/z") == "x .../z"


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\x00", "\x1b", "\ufeff", "\ud800"])
def test_invisible_signs_are_shown_as_codes(sign):
    assert shown_text(f"a{sign}b") == f"a\\u{ord(sign):04x}b"


@pytest.mark.parametrize("text", ["a\nb\tc", "שלום\u200f!", "نمی\u200cخواهم", "研究のみ", "🧠"])
def test_text_of_any_language_is_shown_as_it_is(text):
    assert shown_text(text) == text


def secret_everywhere() -> dict:
    """A value with a secret for each key of a study that takes a text, path or address."""
    free = {
        "data.root": "/home/anna/cohort",
        "data.table": "/home/anna/t.tsv",
        "data.mask_root": "/home/anna/masks",
        "data.fetch.base_url": "https://u:secret@h/p?sig=secret",
        "data.exclude": {"sub-01": "see /home/anna/x and https://u:secret@h"},
        "data.groups": ["/home/anna/group"],
        "data.mask_suffix": "token=secret",
        "data.brain_suffix": "token=secret",
        "training.wandb_project": "https://u:secret@h/team",
        "generation.acquisition": "/home/anna/mix",
        "generation.counts": "/home/anna/counts.tsv",
        "report.title": "/home/anna/title",
        "report.notice": "sent from /home/anna, password=secret",
        "results_dir": "/home/anna/results",
    }
    values: dict = {}
    for key, value in free.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return values


def test_no_key_of_a_study_brings_a_secret_into_its_redacted_values():
    study = study_from_mapping(
        secret_everywhere(),
        complete=False,
    )
    values = study.model_dump(mode="json")
    text = json.dumps(redacted(values, folders_in(values)))
    assert "anna" not in text and "secret" not in text
    # What the pages and figures show has none already.
    assert "anna" not in json.dumps([values["report"], values["data"]["exclude"]])
