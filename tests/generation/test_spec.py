"""F7: a specification of samples is right, or refused as a whole with the place of every fault and nothing written."""

import itertools
import json
import random
from pathlib import Path

import jsonschema
import pytest
from helpers.spec_files import (
    COMPACT,
    COUNTS,
    DETAILED,
    changed,
    first,
    overrides,
    refused,
    samples,
    without,
    write,
    zbins,
)
from pydantic import ValidationError

from slimdiff.generation.spec import SCHEMA, SpecError, load_spec, spec_from_values, spec_schema
from slimdiff.generation.spec_forms import CompactSpec

ROOT = Path(__file__).parents[2]
# The two forms as the reference documents them in its README, section "Generate Samples".
REFERENCE = [
    {
        "checkpoint_path": "/path/to/model.ckpt",
        "config_path": "src/diffusion/config/jsddpm.yaml",
        "output_dir": "./outputs/generation_run_001",
        "seed": 42,
        "device": "cuda",
        "format": "detailed",
        "samples": [
            {"zbin": 0, "control": 10, "lesion": 5},
            {"zbin": 5, "control": 20, "lesion": 10},
            {"zbin": 10, "control": 15, "lesion": 15},
        ],
    },
    {
        "checkpoint_path": "/path/to/model.ckpt",
        "config_path": "src/diffusion/config/jsddpm.yaml",
        "output_dir": "./outputs/generation_run_002",
        "seed": 123,
        "device": "cuda",
        "format": "compact",
        "defaults": {"control": 10, "lesion": 10, "zbins": "all"},
        "overrides": [{"zbin": 0, "control": 5, "lesion": 2}, {"zbin": 29, "control": 5, "lesion": 2}],
    },
]


AMOUNT = "a whole number from 0 to 1000000 is wanted"
ITEM = 'a z-bin from 0 to 9999 or a range such as "0-9" is wanted'
ZBINS = '"all", a range such as "0-9", or a list of z-bins and ranges is wanted'

# Name: specification, JSON pointer, part of the message, whether the schema alone refuses it.
BAD = {
    "no checkpoint": (without(DETAILED, "checkpoint_path"), "", "no checkpoint_path; a path", True),
    "no output": (without(COMPACT, "output_dir"), "", "no output_dir; a path", True),
    "no format": (without(DETAILED, "format"), "", 'no format; "detailed" or "compact" is wanted', True),
    "wrong format": (changed(DETAILED, format="full"), "/format", 'found "full"; "detailed" or', True),
    "format of a list": (changed(DETAILED, format=["compact"]), "/format", 'found ["compact"]', True),
    "no samples": (without(DETAILED, "samples"), "", "no samples; a list", True),
    "no defaults": (without(COMPACT, "defaults"), "", "no defaults; an object", True),
    "samples in compact": (
        changed(COMPACT, samples=[]),
        "/samples",
        "belongs to format detailed; this",
        True,
    ),
    "defaults in detailed": (
        changed(DETAILED, defaults={}),
        "/defaults",
        "belongs to format compact; this is detailed",
        True,
    ),
    "unknown key": (
        changed(DETAILED, sed=1),
        "/sed",
        "unknown key; did you mean seed? Allowed here: $sch",
        True,
    ),
    "unknown key, nothing near": (changed(DETAILED, qqq=1), "/qqq", "unknown key. Allowed here", True),
    "unknown key of an entry": (first(contrl=1), "/samples/0/contrl", "did you mean control?", True),
    "unknown key of defaults": (
        changed(COMPACT, defaults={**COUNTS, "zbins": "all", "z_bins": 3}),
        "/defaults/z_bins",
        "did you mean zbins?",
        True,
    ),
    "key with slash and tilde": (changed(DETAILED, **{"a/b~c": 1}), "/a~1b~0c", "unknown key", True),
    "key with a line break": (changed(DETAILED, **{"a\nb": 1}), "/a\\nb", "unknown key", True),
    "fraction": (first(control=2.5), "/samples/0/control", f"found 2.5; {AMOUNT}", True),
    "whole number as a fraction": (first(control=2.0), "/samples/0/control", f"found 2.0; {AMOUNT}", False),
    "exponent": (first(lesion=1e3), "/samples/0/lesion", "found 1000.0", False),
    "number as text": (first(lesion="3"), "/samples/0/lesion", f'found "3"; {AMOUNT}', True),
    "true as a count": (first(lesion=True), "/samples/0/lesion", f"found true; {AMOUNT}", True),
    "null as a count": (first(lesion=None), "/samples/0/lesion", f"found null; {AMOUNT}", True),
    "negative count": (first(control=-1), "/samples/0/control", f"found -1; {AMOUNT}", True),
    "count too large": (first(control=1_000_001), "/samples/0/control", "found 1000001", True),
    "no count": (samples({"zbin": 0, "control": 1}), "/samples/0", f"no lesion; {AMOUNT}", True),
    "no z-bin": (samples(COUNTS), "/samples/0", "no zbin; a whole number from 0 to 9999", True),
    "negative z-bin": (first(zbin=-1), "/samples/0/zbin", "found -1", True),
    "z-bin as text": (first(zbin="1"), "/samples/0/zbin", 'found "1"', True),
    "z-bin true": (first(zbin=True), "/samples/0/zbin", "found true", True),
    "z-bin all": (first(zbin="all"), "/samples/0/zbin", 'found "all"', True),
    "z-bin twice": (
        samples(*({"zbin": z, **COUNTS} for z in (4, 1, 4))),
        "/samples/2/zbin",
        "z-bin 4 again, as in /samples/0; once is wanted",
        False,
    ),
    "empty samples": (samples(), "/samples", "found []; a list with at least one entry", True),
    "samples as an object": (changed(DETAILED, samples={"0": 1}), "/samples", 'found {"0": 1}; a list', True),
    "entry is a number": (samples(7), "/samples/0", "found 7; an object of zbin, control and lesion", True),
    "zero in all": (
        samples({"zbin": 0, "control": 0, "lesion": 0}),
        "/samples",
        "no sample in all; at least one count above 0 is wanted",
        False,
    ),
    "zero in all, compact": (
        changed(COMPACT, defaults={"control": 0, "lesion": 0, "zbins": "all"}, overrides=[]),
        "/defaults",
        "no sample in all",
        False,
    ),
    "defaults is a list": (
        changed(COMPACT, defaults=[]),
        "/defaults",
        "found []; an object of control",
        True,
    ),
    "falling range": (zbins("20-5"), "/defaults/zbins", 'found "20-5", which falls; "5-20" is wanted', False),
    "falling range in a list": (zbins([1, "20-5"]), "/defaults/zbins/1", 'found "20-5", which falls', False),
    "open range": (zbins("3-"), "/defaults/zbins", f'found "3-"; {ZBINS}', True),
    "range of letters": (zbins("a-b"), "/defaults/zbins", f'found "a-b"; {ZBINS}', True),
    "range with spaces": (zbins(["0 - 3"]), "/defaults/zbins/0", f'found "0 - 3"; {ITEM}', True),
    "number instead of zbins": (zbins(3), "/defaults/zbins", f"found 3; {ZBINS}", True),
    "null zbins": (zbins(None), "/defaults/zbins", f"found null; {ZBINS}", True),
    "capital All": (zbins("All"), "/defaults/zbins", f'found "All"; {ZBINS}', True),
    "all in a list": (zbins(["all"]), "/defaults/zbins/0", f'found "all"; {ITEM}', True),
    "empty zbins": (zbins([]), "/defaults/zbins", f"found []; {ZBINS}", True),
    "list in zbins": (zbins([[1, 2]]), "/defaults/zbins/0", f"found [1, 2]; {ITEM}", True),
    "true in zbins": (zbins([True]), "/defaults/zbins/0", f"found true; {ITEM}", True),
    "fraction in zbins": (zbins([1.0]), "/defaults/zbins/0", f"found 1.0; {ITEM}", False),
    "twice in zbins": (
        zbins([1, 2, 1]),
        "/defaults/zbins/2",
        "z-bin 1 again, as in /defaults/zbins/0",
        False,
    ),
    "ranges overlap": (
        zbins(["0-5", 9, "3-8"]),
        "/defaults/zbins/2",
        "z-bins 3 to 5 again, as in /defaults/zbins/0; every z-bin once is wanted",
        False,
    ),
    "override twice": (overrides(1, 1), "/overrides/1/zbin", "z-bin 1 again, as in /overrides/0", False),
    "override outside": (overrides(1, 7), "/overrides/1/zbin", "z-bin 7 is none of defaults.zbins", False),
    "override without counts": (
        changed(COMPACT, overrides=[{"zbin": 1, "lesion": 1}]),
        "/overrides/0",
        f"no control; {AMOUNT}",
        True,
    ),
    "overrides as an object": (changed(COMPACT, overrides={}), "/overrides", "found {}; a list", True),
    "null overrides": (changed(COMPACT, overrides=None), "/overrides", "found null; a list", True),
    "empty path": (changed(DETAILED, checkpoint_path=""), "/checkpoint_path", 'found ""; a path', True),
    "path of a number": (changed(DETAILED, output_dir=3), "/output_dir", "found 3; a path", True),
    "home of the shell": (changed(DETAILED, output_dir="~/x"), "/output_dir", 'found "~/x"; a path', True),
    "zero byte in a path": (changed(DETAILED, config_path="a\0b"), "/config_path", "found", True),
    "null config": (changed(DETAILED, config_path=None), "/config_path", "found null; a path", True),
    "seed as text": (changed(DETAILED, seed="42"), "/seed", 'found "42"; a whole number from 0 to', True),
    "negative seed": (changed(DETAILED, seed=-1), "/seed", "found -1", True),
    "seed too large": (changed(DETAILED, seed=2**32), "/seed", "to 4294967295 is wanted", True),
    "null seed": (changed(DETAILED, seed=None), "/seed", "found null", True),
    "wrong device": (changed(DETAILED, device="cuda:0"), "/device", 'found "cuda:0"; "auto", "cpu"', True),
    "no replica": (
        changed(DETAILED, replicas=0),
        "/replicas",
        "found 0; a whole number from 1 to 1000",
        True,
    ),
    "too many replicas": (changed(DETAILED, replicas=1001), "/replicas", "found 1001", True),
    "schema of a number": (changed(DETAILED, **{"$schema": 1}), "/$schema", "found 1; the address", True),
}


@pytest.mark.parametrize("name", BAD)
def test_f7_every_rule_names_its_place(name, here):
    spec, place, text, _ = BAD[name]
    (line,) = refused(spec, here)
    assert line.startswith(f"spec.json#{place}: ")
    assert text in line


@pytest.mark.parametrize("name", BAD)
def test_the_schema_refuses_what_a_schema_can(name):
    spec, _, _, expressible = BAD[name]
    assert jsonschema.Draft202012Validator(spec_schema()).is_valid(spec) is not expressible


def test_f7_all_faults_are_told_at_once(here):
    """2.5 samples, an unknown key and a z-bin that is named twice (docs/method.md, F7), and some more."""
    spec = samples(
        {"zbin": 0, "control": 2.5, "lesion": 1},
        {"zbin": 0, "control": "1", "lesion": -1, "extra": 0},
        5,
    )
    lines = refused(changed(spec, device="gpu", replica=2), here)
    places = [line.split(": ")[0].removeprefix("spec.json#") for line in lines]
    assert places == [
        "/device",
        "/replica",
        "/samples/0/control",
        "/samples/1/control",
        "/samples/1/extra",
        "/samples/1/lesion",
        "/samples/1/zbin",
        "/samples/2",
    ]


def test_a_wrong_format_does_not_hide_the_rest(here):
    lines = refused(changed(first(control=2.5), format="full", sed=1), here)
    assert [line.split(": ")[0] for line in lines] == [
        f"spec.json#{place}" for place in ("/format", "/samples/0/control", "/sed")
    ]


def test_models_and_reading_agree_on_z_bins():
    """What the model (and so the schema) takes, the reader takes too, but for repetitions and falling ranges."""
    rng = random.Random(0)
    odd = [
        "all",
        "0-3",
        "3-0",
        "2-2",
        "4-",
        "-4",
        "",
        "00-01",
        "12345-12346",
        "１-２",
        0,
        7,
        -1,
        10**5,
        1.0,
        None,
    ]
    odd += [True, {}, [], "0-9\n"]
    taken = 0
    for _ in range(600):
        value = rng.choice(odd) if rng.random() < 0.3 else rng.choices(odd, k=rng.randint(0, 3))
        spec = zbins(value)
        try:
            model = CompactSpec.model_validate(spec)
        except ValidationError:
            model = None
        try:
            assert spec_from_values(spec) == model
            taken += 1
        except SpecError as error:
            assert model is None or "again" in str(error) or "falls" in str(error)
    assert taken > 20


@pytest.mark.parametrize("spec", [*REFERENCE, DETAILED, COMPACT], ids=str)
def test_good_specifications_fit_reader_and_schema(spec, here):
    assert load_spec(write(here, spec)).format == spec["format"]
    jsonschema.Draft202012Validator.check_schema(spec_schema())
    jsonschema.Draft202012Validator(spec_schema()).validate(spec)


def test_a_byte_order_mark_and_an_editor_s_key_are_no_fault(here):
    spec = changed(DETAILED, **{"$schema": "generation_spec.schema.json"})
    marked = load_spec(write(here, json.dumps(spec).encode("utf-8-sig")))
    assert marked.counts(3) == spec_from_values(DETAILED).counts(3)


def test_the_published_schema_has_not_drifted():
    published = json.loads((ROOT / SCHEMA).read_text(encoding="utf-8"))
    assert published == spec_schema(), "run python -m slimdiff.generation.spec"


def test_every_key_of_the_schema_has_a_meaning():
    for kind in spec_schema()["$defs"].values():
        assert kind["additionalProperties"] is False
        assert all(field["description"] for field in kind["properties"].values())


def test_counts_are_those_of_a_slow_twin():
    spec = spec_from_values(overrides(0, 5, zbins=["0-1", 5, "7-9"]))
    wanted = {}
    for z_bin, label in itertools.product(range(30), (0, 1)):
        number = COUNTS[("control", "lesion")[label]] if z_bin in (0, 1, 5, 7, 8, 9) else 0
        if number:
            wanted[z_bin, label] = number
    assert spec.counts(30) == wanted
    assert spec_from_values(COMPACT).counts(3) == {(0, 0): 2, (0, 1): 1, (1, 1): 4, (2, 0): 2, (2, 1): 1}
    assert list(spec_from_values(changed(DETAILED, samples=DETAILED["samples"][::-1])).counts(3).items()) == [
        ((0, 0), 1),
        ((0, 1), 2),
        ((2, 1), 3),
    ]
    every = spec_from_values(overrides(2, zbins="all"))
    assert sorted({z_bin for z_bin, _ in every.counts(4)}) == [0, 1, 2, 3]


def test_the_example_is_a_specification():
    """config/generation_spec.json, for the demo's checkpoint."""
    path = ROOT / "config" / "generation_spec.json"
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), spec_schema())
    assert load_spec(path).counts(6)
