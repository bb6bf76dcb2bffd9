"""F7: a sample specification is valid, or refused with the place of every problem and without writing."""

import itertools
import json
import random
from pathlib import Path

import jsonschema
import pytest
from helpers.specifications import (
    COMPACT,
    COUNTS,
    DETAILED,
    FORM,
    ITEM,
    NO_COUNT,
    OBJECT,
    PATH,
    REFERENCE,
    REQUIRED,
    WHOLE,
    ZBINS,
    compact,
    detailed,
    first,
    overrides,
    places,
    refused,
    samples,
    tree,
    without,
    write,
    zbins,
)

from slimdiff.cli import generate_spec
from slimdiff.config import ConfigError
from slimdiff.generation.spec import SCHEMA, load_spec, spec_from_values, spec_schema

ROOT = Path(__file__).parents[2]

# Specification, place, part of the message. These are also refused by the schema alone.
BAD = {
    "no checkpoint": (without(DETAILED, "checkpoint_path"), "checkpoint_path", REQUIRED),
    "no output": (without(COMPACT, "output_dir"), "output_dir", REQUIRED),
    "no format": (without(DETAILED, "format"), "format", FORM + "no such key"),
    "wrong format": (detailed(format="full"), "format", FORM + '"full"'),
    "format of a list": (detailed(format=["compact"]), "format", FORM + '["compact"]'),
    "no samples": (without(DETAILED, "samples"), "samples", REQUIRED),
    "no defaults": (without(COMPACT, "defaults"), "defaults", REQUIRED),
    "samples in compact": (compact(samples=[]), "samples", "unknown key. Allowed here: $schema, ch"),
    "defaults in detailed": (detailed(defaults={}), "defaults", "unknown key. Allowed here: $schema, ch"),
    "unknown key": (detailed(sed=1), "sed", "unknown key; did you mean seed? Allowed here: $schema"),
    "unknown key, nothing near": (detailed(qqq=1), "qqq", "unknown key. Allowed here"),
    "unknown key of an entry": (
        first(contrl=1),
        "samples[0].contrl",
        "did you mean control? Allowed here: control, lesion, zbin",
    ),
    "unknown key of defaults": (
        compact(defaults={**COUNTS, "zbins": "all", "z_bins": 3}),
        "defaults.z_bins",
        "did you mean zbins?",
    ),
    "key with a bracket": (detailed(**{"a[b": 1}), "a[b", "unknown key"),
    "key with a line break": (detailed(**{"a\nb": 1}), '"a\\nb"', "unknown key"),
    "fraction": (first(control=2.5), "samples[0].control", f"{WHOLE}, found 2.5"),
    "number as text": (first(lesion="3"), "samples[0].lesion", f'{WHOLE}, found "3"'),
    "true as a count": (first(lesion=True), "samples[0].lesion", f"{WHOLE}, found true"),
    "null as a count": (first(lesion=None), "samples[0].lesion", f"{WHOLE}, found null"),
    "negative count": (first(control=-1), "samples[0].control", "expected a number of at least 0, found -1"),
    "count too large": (first(control=1_000_001), "samples[0].control", "at most 1000000, found 1000001"),
    "no count": (samples({"zbin": 0, "control": 1}), "samples[0].lesion", REQUIRED),
    "no z-bin": (samples(COUNTS), "samples[0].zbin", REQUIRED),
    "negative z-bin": (first(zbin=-1), "samples[0].zbin", "found -1"),
    "z-bin too large": (first(zbin=10_000), "samples[0].zbin", "at most 9999, found 10000"),
    "z-bin as text": (first(zbin="1"), "samples[0].zbin", 'found "1"'),
    "z-bin true": (first(zbin=True), "samples[0].zbin", "found true"),
    "z-bin all": (first(zbin="all"), "samples[0].zbin", 'found "all"'),
    "empty samples": (samples(), "samples", "at least 1 item"),
    "samples as an object": (detailed(samples={"0": 1}), "samples", 'expected a list, found {"0": 1}'),
    "entry is a number": (samples(7), "samples[0]", f"{OBJECT}, found 7"),
    "defaults is a list": (compact(defaults=[]), "defaults", f"{OBJECT}, found []"),
    "open range": (zbins("3-"), "defaults.zbins", f'{ZBINS}"3-"'),
    "range of letters": (zbins("a-b"), "defaults.zbins", f'{ZBINS}"a-b"'),
    "range with spaces": (zbins(["0 - 3"]), "defaults.zbins[0]", f'{ITEM}"0 - 3"'),
    "number instead of zbins": (zbins(3), "defaults.zbins", f"{ZBINS}3"),
    "null zbins": (zbins(None), "defaults.zbins", f"{ZBINS}null"),
    "capital All": (zbins("All"), "defaults.zbins", f'{ZBINS}"All"'),
    "all in a list": (zbins(["all"]), "defaults.zbins[0]", f'{ITEM}"all"'),
    "empty zbins": (zbins([]), "defaults.zbins", "at least 1 item"),
    "list in zbins": (zbins([[1, 2]]), "defaults.zbins[0]", f"{ITEM}[1, 2]"),
    "true in zbins": (zbins([True]), "defaults.zbins[0]", f"{ITEM}true"),
    "override without counts": (
        compact(overrides=[{"zbin": 1, "lesion": 1}]),
        "overrides[0].control",
        REQUIRED,
    ),
    "overrides as an object": (compact(overrides={}), "overrides", "expected a list, found {}"),
    "null overrides": (compact(overrides=None), "overrides", "expected a list, found null"),
    "empty path": (detailed(checkpoint_path=""), "checkpoint_path", f'{PATH}""'),
    "path of a number": (detailed(output_dir=3), "output_dir", f"{PATH}3"),
    "home of the shell": (detailed(output_dir="~/x"), "output_dir", f'{PATH}"~/x"'),
    "zero byte in a path": (detailed(config_path="a\0b"), "config_path", PATH),
    "null config": (detailed(config_path=None), "config_path", f"{PATH}null"),
    "seed as text": (detailed(seed="42"), "seed", f'{WHOLE}, found "42"'),
    "negative seed": (detailed(seed=-1), "seed", "found -1"),
    "seed too large": (
        detailed(seed=2**32),
        "seed",
        "expected a number less than 4294967296, found 4294967296",
    ),
    "null seed": (detailed(seed=None), "seed", "found null"),
    "wrong device": (detailed(device="cuda:0"), "device", "expected 'auto', 'cpu', 'cuda' or 'mps', found"),
    "no replica": (detailed(replicas=0), "replicas", "found 0"),
    "too many replicas": (detailed(replicas=1001), "replicas", "at most 1000, found 1001"),
    "schema of a number": (detailed(**{"$schema": 1}), "$schema", "expected text, found 1"),
}
# Accepted by the schema: for a schema 2.0 is a whole number, and it does not compare entries.
BEYOND_THE_SCHEMA = {
    "whole number as a fraction": (first(control=2.0), "samples[0].control", f"{WHOLE}, found 2.0"),
    "exponent": (first(lesion=1e3), "samples[0].lesion", "found 1000.0"),
    "duplicate z-bin": (
        samples(*({"zbin": z, **COUNTS} for z in (4, 1, 4))),
        "samples[2].zbin",
        "duplicate z-bin 4, also in samples[0].zbin; keep one",
    ),
    "zero in all": (samples({"zbin": 0, "control": 0, "lesion": 0}), "samples", NO_COUNT),
    "zero in all, compact": (
        compact(defaults={"control": 0, "lesion": 0, "zbins": "all"}, overrides=[]),
        "defaults",
        NO_COUNT,
    ),
    "falling range": (zbins("20-5"), "defaults.zbins", f'{ZBINS}"20-5"'),
    "falling range in a list": (zbins([1, "20-5"]), "defaults.zbins[1]", f'{ITEM}"20-5"'),
    "fraction in zbins": (zbins([1.0]), "defaults.zbins[0]", f"{ITEM}1.0"),
    "duplicate in zbins": (
        zbins([1, 2, 1]),
        "defaults.zbins[2]",
        "duplicate z-bin 1, also in defaults.zbins[0]",
    ),
    "ranges overlap": (
        zbins(["0-5", 9, "3-8"]),
        "defaults.zbins[2]",
        "duplicate z-bins 3 to 5, also in defaults.zbins[0]; keep one",
    ),
    "duplicate override": (
        overrides(1, 1),
        "overrides[1].zbin",
        "duplicate z-bin 1, also in overrides[0].zbin",
    ),
    "override outside": (
        overrides(1, 7),
        "overrides[1].zbin",
        "expected a z-bin of defaults.zbins, found z-bin 7",
    ),
}


@pytest.mark.parametrize("name", [*BAD, *BEYOND_THE_SCHEMA])
def test_f7_every_rule_names_its_place(name, here):
    spec, place, text = {**BAD, **BEYOND_THE_SCHEMA}[name]
    (line,) = refused(spec, here)
    assert line.startswith(f"{place}: ")
    assert text in line
    assert jsonschema.Draft202012Validator(spec_schema()).is_valid(spec) is (name in BEYOND_THE_SCHEMA)


def test_f7_all_problems_are_reported_at_once(here):
    """2.5 samples, an unknown key and a duplicate z-bin (docs/method.md, F7), and further problems."""
    spec = samples(
        {"zbin": 0, "control": 2.5, "lesion": 1},
        {"zbin": 0, "control": "1", "lesion": -1, "extra": 0},
        5,
    )
    assert sorted(places(refused({**spec, "device": "gpu", "replica": 2}, here))) == [
        "device",
        "replica",
        "samples[0].control",
        "samples[1].control",
        "samples[1].extra",
        "samples[1].lesion",
        "samples[1].zbin",
        "samples[2]",
    ]
    # A wrong format does not hide the other problems.
    lines = refused({**first(control=2.5), "format": "full", "sed": 1}, here)
    assert sorted(places(lines)) == ["format", "samples[0].control", "sed"]


def test_schema_and_reading_agree_on_z_bins():
    """The reader accepts what the schema accepts, except duplicates and falling ranges."""
    rng = random.Random(0)
    odd = ["all", "0-3", "3-0", "2-2", "4-", "-4", "", "00-01", "12345-12346", "１-２", "0-9\n"]
    odd += [0, 7, -1, 10**5, None, True, {}, []]
    schema, taken = jsonschema.Draft202012Validator(spec_schema()), 0
    for _ in range(600):
        value = rng.choice(odd) if rng.random() < 0.3 else rng.choices(odd, k=rng.randint(0, 3))
        # In Python, which jsonschema uses, `$` matches before a final line break; in ECMA it does not.
        valid = schema.is_valid(zbins(value)) and "0-9\n" not in (
            value if isinstance(value, list) else [value]
        )
        try:
            spec_from_values(zbins(value))
            assert valid
            taken += 1
        except ConfigError as error:
            assert not valid or "duplicate" in str(error) or "3-0" in str(error)
    assert taken > 20


@pytest.mark.parametrize("spec", [*REFERENCE, DETAILED, COMPACT], ids=str)
def test_valid_specifications_are_accepted_by_reader_and_schema(spec, here):
    assert load_spec(write(here, spec)).format == spec["format"]
    jsonschema.Draft202012Validator.check_schema(spec_schema())
    jsonschema.Draft202012Validator(spec_schema()).validate(spec)


@pytest.mark.parametrize("spec", [DETAILED, COMPACT], ids=["detailed", "compact"])
def test_comments_are_allowed_at_any_level(spec, here):
    def commented(value):
        if isinstance(value, dict):
            note = {"_comment": "a note", "_more": [{"_": None}, 2.5]}
            return {**note, **{key: commented(part) for key, part in value.items()}}
        return [commented(part) for part in value] if isinstance(value, list) else value

    jsonschema.Draft202012Validator(spec_schema()).validate(commented(spec))
    text = json.dumps(commented(spec))[:-1] + ', "_comment": "a second one"}'
    assert load_spec(write(here, text)) == spec_from_values(spec)


def test_a_byte_order_mark_and_a_schema_key_are_accepted(here):
    spec = detailed(**{"$schema": "generation_spec.schema.json"})
    marked = load_spec(write(here, json.dumps(spec).encode("utf-8-sig")))
    assert marked.counts(3) == spec_from_values(DETAILED).counts(3)


def test_the_published_schema_is_current_and_describes_every_key():
    published = json.loads((ROOT / SCHEMA).read_text(encoding="utf-8"))
    assert published == spec_schema(), "run python -m slimdiff.generation.spec"
    for kind in published["$defs"].values():
        assert kind["additionalProperties"] is False
        assert all(field["description"] for field in kind["properties"].values())


def test_counts_match_a_loop():
    spec = spec_from_values(overrides(0, 5, zbins=["0-1", 5, "7-9"]))
    expected = {}
    for z_bin, label in itertools.product(range(30), (0, 1)):
        number = COUNTS[("control", "lesion")[label]] if z_bin in (0, 1, 5, 7, 8, 9) else 0
        if number:
            expected[z_bin, label] = number
    assert spec.counts(30) == expected
    assert spec_from_values(COMPACT).counts(3) == {(0, 0): 2, (0, 1): 1, (1, 1): 4, (2, 0): 2, (2, 1): 1}
    turned = spec_from_values(samples(*DETAILED["samples"][::-1])).counts(3)
    assert list(turned.items()) == [((0, 0), 1), ((0, 1), 2), ((2, 1), 3)]
    every = spec_from_values(overrides(2, zbins="all"))
    assert sorted({z_bin for z_bin, _ in every.counts(4)}) == [0, 1, 2, 3]


def test_the_example_is_a_specification():
    """config/generation_spec.json, for the checkpoint of the demo."""
    path = ROOT / "config" / "generation_spec.json"
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), spec_schema())
    assert load_spec(path).counts(6)


JSON = "not readable as JSON: "
UNREADABLE = {
    "broken JSON": ('{\n "format": "detailed",\n}', f"{JSON}Expecting property name"),
    "its place": ('{\n "format": "detailed",\n}', "line 3 column 1"),
    "cut off": ('{"format": ', f"{JSON}Expecting value: line 1 column"),
    "two objects": ("{} {}", f"{JSON}Extra data: line 1 column 4"),
    "comment": ("// mine\n{}", f"{JSON}Expecting value: line 1 column 1"),
    "empty": (" \n", JSON),
    "a list": ("[1]", "expected an object {...}, found [1]"),
    "null": ("null", "expected an object {...}, found null"),
    "UTF-16": (json.dumps(DETAILED).encode("utf-16"), "not UTF-8 text"),
    "deep": ("[" * 100_000, JSON),
    "deep and closed": ('{"a":' * 20_000 + "1" + "}" * 20_000, JSON),
    "deep but readable": (json.dumps(DETAILED)[:-1] + ', "a":' + "[" * 30 + "]" * 30 + "}", "a: unknown key"),
    "lone surrogate": ('{"a": ["\\ud800"]}', "surrogates not allowed"),
    "lone surrogate in a key": ('{"\\udc00": 1}', "surrogates not allowed"),
    "endless number": ('{"seed": ' + "9" * 5000 + "}", f"{JSON}Exceeds the limit"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_f7_broken_json_is_refused_with_line_and_column(name, here):
    content, text = UNREADABLE[name]
    (line,) = refused(content, here)
    assert text in line


def test_f7_a_missing_file_is_refused(here, capsys):
    for path, text in (
        ("absent.json", "absent.json: expected a JSON file, found no such file"),
        (".", "a folder"),
    ):
        assert generate_spec(["--spec", path]) == 2
        assert text in capsys.readouterr().err
    assert not tree(here)


def test_f7_duplicate_keys_are_refused(here):
    text = json.dumps(DETAILED)[:-1] + ', "seed": 1, "seed": 2}'
    text = text.replace('"lesion": 3', '"lesion": 3, "lesion": 30')
    entry, whole = refused(text, here)
    assert entry == 'duplicate key "lesion" in {"zbin": 2, "control": 0, "lesion": 30}; keep one'
    assert whole.startswith('duplicate key "seed" in {"checkpoint_path": ')


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_f7_numbers_that_are_not_json_are_refused(number, here):
    (line,) = refused(json.dumps(DETAILED).replace('"lesion": 3', f'"lesion": {number}'), here)
    assert line.startswith("samples[1].lesion: expected ")
