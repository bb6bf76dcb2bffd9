"""Study files that attack the reader: aliases, nesting, size, duplicates, code; by the commands and by the engine."""

import time
from pathlib import Path

import pytest
from helpers.workflow_runs import snakemake

from slimdiff import cli
from slimdiff.config import ConfigError, load_study
from slimdiff.config.loading import MAX_BYTES

LEVELS, FAN = 12, 9


def bomb(first: str, opened: str, item: str, closed: str) -> str:
    """Each level repeats the one below nine times, by aliases."""
    lines = [f"a0: &a0 {first}"]
    for level in range(1, LEVELS):
        items = ", ".join(item.format(number=number, below=level - 1) for number in range(FAN))
        lines.append(f"a{level}: &a{level} {opened}{items}{closed}")
    return "\n".join(lines)


FILES = {
    "lists of aliases": ("b.yaml", bomb("[1]", "[", "*a{below}", "]"), "values, aliases"),
    "mappings of aliases": ("b.yaml", bomb("{x: 1}", "{", "k{number}: *a{below}", "}"), "values, aliases"),
    "merged aliases": ("b.yaml", bomb("{x: 1}", "{<<: [", "*a{below}", "]}"), "values, aliases"),
    "a list in itself": ("b.yaml", "a: &a [*a]", "inside of its own anchor"),
    "a mapping in itself": ("b.yaml", "a: &a {b: *a}", "inside of its own anchor"),
    "brackets": ("b.yaml", "a: " + "[" * 5000, "at most 50 levels"),
    "closed brackets": ("b.yaml", f"a: {'[' * 100}{']' * 100}", "at most 50 levels"),
    "brackets of JSON": ("b.json", '{"a": ' + "[" * 100_000, "at most 50 levels"),
    "closed brackets of JSON": ("b.json", '{"a": ' + "[" * 100 + "]" * 100 + "}", "at most 50 levels"),
    "a large file": ("b.yaml", "study: tiny\n" + "# x\n" * 300_000, "at most 250000 bytes"),
    "many values": ("b.yaml", f"a: [{'1,' * 110_000}]", "at most 100000 values"),
    "a date that is none": ("b.yaml", "study: 2001-99-99", "not readable as YAML"),
    "a number without end": ("b.yaml", f"seed: {'9' * 5000}", "not readable as YAML"),
    "a call": ("b.yaml", "study: !!python/object/apply:os.system ['touch ran']", "could not determine"),
    "a template": ("b.yaml", "__use_yte__: true\nstudy: ?str(1 + 1)", "found a template"),
    "a key that is a duplicate": (
        "b.yaml",
        "data: {source: phantom}\ndata: {root: x}",
        "duplicate key 'data'",
    ),
    "a key of JSON that is a duplicate": ("b.json", '{"seed": 1, "seed": 2}', 'duplicate key "seed"'),
}


def place(folder: Path, kind: str) -> tuple[Path, str]:
    name, text, words = FILES[kind]
    path = folder / name
    path.write_text(text)
    return path, words


@pytest.mark.parametrize("kind", FILES)
def test_a_command_refuses_it_by_name_and_nothing_runs(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, words = place(tmp_path, kind)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "item", ["1,", "[],", "? ,", "1:"], ids=["numbers", "lists", "keys", "a number of base 60"]
)
def test_the_largest_file_is_answered_in_seconds(item, tmp_path):
    opened, closed = {"? ,": "{}", "1:": " 1"}.get(item, "[]")
    path = tmp_path / "s.yaml"
    path.write_text("x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="found a str"):
        load_study(path)
    path.write_text(f"a: {opened}{item * ((MAX_BYTES - 9) // len(item))}{closed}")
    began = time.process_time()
    with pytest.raises(ConfigError):
        load_study(path)
    assert time.process_time() - began < 7


# Snakemake itself fails first at the others, or never ends: it unfolds mappings of aliases before the workflow begins.
@pytest.mark.parametrize(
    "kind",
    [
        "lists of aliases",
        "a large file",
        "a key that is a duplicate",
        "a key of JSON that is a duplicate",
        "a template",
    ],
)
def test_the_engine_refuses_it_with_the_same_words(kind, tmp_path):
    path, words = place(tmp_path, kind)
    done = snakemake("--dry-run", "--configfile", str(path), folder=tmp_path)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()


def test_aliases_that_write_a_study_shorter_are_read(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "training: &own {steps: 30}\nvariants:\n  base: {}\n  other: {training: {<<: *own, batch_size: 4}}\n"
    )
    study = load_study(path)
    assert study.variant("other").training.steps == 30
    assert study.variant("other").training.batch_size == 4


UNREADABLE = {
    "latin-1": "study: caf\xe9".encode("latin-1"),
    "binary": bytes(range(255, -1, -1)),
    "brackets": b"a: " + b"[" * 5000,
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_the_engine_itself_cannot_read_starts_nothing_and_check_names_it(kind, tmp_path, capsys):
    """Snakemake reads the file before the workflow begins, and fails with words of its own."""
    path = tmp_path / "study.yaml"
    path.write_bytes(UNREADABLE[kind])
    done = snakemake("--cores", "1", "--configfile", str(path), folder=tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "results").exists()
    assert cli.run_stage("check", ["--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and "Traceback" not in said
