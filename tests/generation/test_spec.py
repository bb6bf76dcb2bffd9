"""F7: a sample specification is valid, or refused with the place of every problem and without writing."""

import itertools
import json
import random
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from slimdiff.cli import generate_spec
from slimdiff.config import ConfigError
from slimdiff.config.generation import GenerationConfig
from slimdiff.files import read_table
from slimdiff.generation.requests import requests_of_bin
from slimdiff.generation.samples import read_samples
from slimdiff.generation.spec import SCHEMA, load_spec, plan, spec_from_values, spec_schema
from slimdiff.model.checkpoint import build_network, read_card, save_model
from slimdiff.stages.generate_spec import run_spec

ROOT = Path(__file__).parents[2]
COUNTS = {"control": 1, "lesion": 1}
DETAILED = {
    "checkpoint_path": "model.safetensors",
    "output_dir": "drawn",
    "format": "detailed",
    "samples": [{"zbin": 0, "control": 1, "lesion": 2}, {"zbin": 2, "control": 0, "lesion": 3}],
}
COMPACT = {
    "checkpoint_path": "model.safetensors",
    "output_dir": "drawn",
    "format": "compact",
    "defaults": {"control": 2, "lesion": 1, "zbins": "0-2"},
    "overrides": [{"zbin": 1, "control": 0, "lesion": 4}],
}
# The two forms from the README of the reference, section "Generate Samples".
SHARED = {
    "checkpoint_path": "/model.ckpt",
    "config_path": "src/jsddpm.yaml",
    "output_dir": "./outputs/run_001",
}
REFERENCE = [
    {
        **SHARED,
        "seed": 42,
        "device": "cuda",
        "format": "detailed",
        "samples": [{"zbin": 0, "control": 10, "lesion": 5}, {"zbin": 10, "control": 15, "lesion": 15}],
    },
    {
        **SHARED,
        "seed": 123,
        "device": "cuda",
        "format": "compact",
        "defaults": {"control": 10, "lesion": 10, "zbins": "all"},
        "overrides": [{"zbin": 0, "control": 5, "lesion": 2}, {"zbin": 29, "control": 5, "lesion": 2}],
    },
]


def detailed(**changes) -> dict:
    return {**DETAILED, **changes}


def compact(**changes) -> dict:
    return {**COMPACT, **changes}


def without(base: dict, key: str) -> dict:
    return {name: value for name, value in base.items() if name != key}


def samples(*entries) -> dict:
    return detailed(samples=list(entries))


def first(**changes) -> dict:
    return samples({"zbin": 0, **COUNTS, **changes}, {"zbin": 1, **COUNTS})


def zbins(value) -> dict:
    return compact(defaults={**COUNTS, "zbins": value}, overrides=[])


def overrides(*bins, zbins="0-2") -> dict:
    return compact(defaults={**COUNTS, "zbins": zbins}, overrides=[{"zbin": z, **COUNTS} for z in bins])


def planned(spec: dict):
    return plan(spec_from_values(spec), Path("spec.json"))


def write(folder: Path, content: dict | str | bytes, name: str = "spec.json") -> Path:
    if isinstance(content, dict):
        content = json.dumps(content)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(name)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(spec, folder: Path, **options) -> list[str]:
    """The lines of the error message, without the file name; the folder must not change."""
    path = write(folder, spec)
    before = tree(folder)
    with pytest.raises(ConfigError) as found:
        run_spec(path, **options)
    assert tree(folder) == before
    lines = str(found.value).split("\n")
    assert all(line.startswith("spec.json: ") for line in lines)
    return [line.removeprefix("spec.json: ") for line in lines]


def problem(spec: dict, folder: Path) -> tuple[str, str]:
    """Place and text of the only problem."""
    (line,) = refused(spec, folder)
    place, text = line.split(": ", 1)
    return place, text


def places(lines: list[str]) -> list[str]:
    return [line.split(": ")[0] for line in lines]


REQUIRED = "this key is required, but missing"
WHOLE = "expected a whole number"
ITEM = 'expected a z-bin from 0 to 9999 or a rising range such as "0-9", found '
ZBINS = 'expected "all", a rising range such as "0-9", or a list of z-bins and ranges, found '
PATH = "expected a path that begins with neither a space nor ~, which is not expanded here, found "
OBJECT = "expected a mapping of keys"
NO_COUNT = "expected at least one count above 0, found none"
FORM = 'expected "detailed" or "compact", found '

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


def test_the_specification_overrides_the_settings_of_the_study(checkpoint, study):
    config_path = study(generation={"seed": 3, "tau": 0.25, "replicas": 5, "device": "auto"})
    whole = planned(compact(config_path=config_path, seed=11, device="cpu", replicas=2))
    assert whole.generation == GenerationConfig(seed=11, device="cpu", replicas=2, tau=0.25, evaluations=4)
    assert (whole.checkpoint, whole.card, whole.priors) == (checkpoint, read_card(checkpoint), None)
    assert whole.total == 2 * 10
    own = planned(compact(config_path=config_path)).generation
    assert (own.seed, own.device, own.replicas) == (3, "auto", 5)
    assert planned(COMPACT).generation == GenerationConfig()


def test_a_dry_run_shows_the_plan_and_writes_nothing(checkpoint, study, here, capsys, monkeypatch):
    monkeypatch.setattr("slimdiff.generation.folder.Job.draw", None)
    path = write(here, compact(config_path=study(), replicas=2))
    before = tree(here)
    run_spec(path, validate_only=True)
    assert capsys.readouterr().out == "spec.json: valid, 20 samples\n"
    run_spec(path, dry_run=True)
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines()[1:5]] == [
        ["0", "2", "1", "2", "6"],
        ["1", "0", "4", "2", "8"],
        ["2", "2", "1", "2", "6"],
        ["all", "4", "6", "2", "20"],
    ]
    # 20 pairs of 8 x 8 px of two bytes: 5,120 bytes.
    assert "20 samples in 3 z-bins, 80 network evaluations, about 5.12 kB on disk" in shown
    assert "zbin-00 ... zbin-02" in shown
    run_spec(path, dry_run=True, verbose=True)
    detailed = capsys.readouterr().out
    assert shown in detailed
    assert "study tiny, variant base, fold 1, step 7" in detailed
    assert "dpmpp_2m" in detailed
    assert tree(here) == before


def test_f7_a_missing_checkpoint_and_z_bins_outside_it_are_refused(checkpoint, here):
    assert problem(detailed(checkpoint_path="no.safetensors"), here) == (
        "checkpoint_path",
        "no.safetensors: checkpoint not found",
    )
    write(here, b"\x80\x02}q", "old.ckpt")
    place, text = problem(detailed(checkpoint_path="old.ckpt"), here)
    assert (place, "not a safetensors file" in text) == ("checkpoint_path", True)
    expected = "expected z-bins 0 to 2 of the checkpoint, found "
    assert problem(first(zbin=3), here) == ("samples[0].zbin", expected + "z-bin 3")
    assert problem(zbins([0, "2-5"]), here) == ("defaults.zbins[1]", expected + "z-bins 2 to 5")
    assert problem(overrides(3, zbins="all"), here)[0] == "overrides[0].zbin"
    nothing = [{"zbin": z, "control": 0, "lesion": 0} for z in range(3)]
    spec = compact(defaults={**COUNTS, "zbins": "all"}, overrides=nothing)
    assert problem(spec, here) == ("overrides", NO_COUNT)


MISFITS = {
    "z-bins": (
        {"slices": {"n_bins": 4}},
        "slices.n_bins: expected 3, as model.safetensors was trained with, found 4",
    ),
    "grid": ({"preprocess": {"grid": [16, 8, 90]}}, "preprocess.grid: expected [8, 8], as model.saf"),
    "spacing": ({"preprocess": {"spacing_mm": 1.0}}, "preprocess.spacing_mm: expected 6.0, as model.saf"),
    "guidance": ({"generation": {"guidance": 2.0}}, "was trained without model.null_token"),
    "guide": (
        {"generation": {"guidance": 2.0, "guide": 5}},
        "snapshot-5.safetensors: not found, but generation.guide names it",
    ),
    "acquisition": ({"generation": {"acquisition": "T2sel"}}, "was trained without model.acquisition"),
    "start": ({"generation": {"spacing": "leading", "evaluations": 3}}, ""),
    "unknown key": ({"generation": {"sampling": 3}}, "generation.sampling: unknown key"),
    "wrong value": ({"generation": {"evaluations": 1}}, "generation.evaluations: "),
}


@pytest.mark.parametrize("name", MISFITS)
def test_f7_a_study_that_does_not_match_the_checkpoint_is_refused(name, checkpoint, study, here):
    values, text = MISFITS[name]
    place, found = problem(compact(config_path=study(**values)), here)
    assert place == "config_path"
    assert text in found


def test_a_study_that_matches_the_checkpoint_is_accepted(checkpoint, study):
    """Default n_bins, grid and spacing of a study (those of the paper) are not compared with the checkpoint."""
    own = {"slices": {"n_bins": 3, "z_range": "auto"}, "preprocess": {"grid": [8, 8, 40], "spacing_mm": 6.0}}
    for values in ({}, own, {"generation": {"sampler": "ddim_ref", "evaluations": 1000}}):
        planned(compact(config_path=study(**values)))


def test_the_grid_of_a_rotated_network_is_compared_in_the_orientation_of_the_store(
    save_checkpoint, study, here
):
    save_checkpoint(size=(8, 16), quarter_turns=1)
    # 16 rows of 8 px: the grid has its width first.
    planned(compact(config_path=study(preprocess={"grid": [8, 16, 40]})))
    place, text = problem(compact(config_path=study(preprocess={"grid": [16, 8, 40]})), here)
    assert (place, "expected [8, 16]" in text, "found [16, 8]" in text) == ("config_path", True, True)


@pytest.mark.parametrize("path", ["absent.yaml", "."])
def test_f7_a_missing_study_is_refused(path, checkpoint, here):
    assert problem(compact(config_path=path), here)[0] == "config_path"


def test_variants_and_counts_of_a_study_are_ignored_with_a_note(checkpoint, study):
    variants = {"base": {"generation": {"evaluations": 50}}}
    whole = planned(compact(config_path=study(generation={"counts": "absent.tsv"}, variants=variants)))
    assert (whole.generation.counts, whole.generation.evaluations) == (None, 4)
    assert len(whole.notes) == 2
    assert all(f"note: {note}" in whole.describe() for note in whole.notes)


FILLED = np.ones((3, 8, 8), bool)
WRONG_PRIORS = {
    "shape": (np.ones((3, 8, 9), bool), "priors", "3 z-bins of 8 x 8 px"),
    "bins": (np.ones((2, 8, 8), bool), "priors", "3 z-bins"),
    "dtype": (FILLED.astype(np.uint8), "priors", "priors.npz: expected an array of bool, found uint8"),
    "key": (FILLED, "prior", "priors.npz: "),
    "pickle": (np.array([{}], object), "priors", "priors.npz: "),
    "empty": (np.arange(3)[:, None, None] * FILLED > 0, "priors", "prior of z-bin 0 is empty"),
}


@pytest.mark.parametrize("name", WRONG_PRIORS)
def test_f7_priors_that_do_not_match_are_refused(name, checkpoint, study, here):
    maps, key, text = WRONG_PRIORS[name]
    np.savez(here / "priors.npz", **{key: maps})
    spec = compact(config_path=study(generation={"background": "prior"}), priors_path="priors.npz")
    place, found = problem(spec, here)
    assert place == "priors_path"
    assert text in found


def test_f7_priors_are_required_if_used_and_refused_otherwise(checkpoint, study, here):
    with_background, without_background = study("a.json", {"background": "prior"}), study("b.json")
    np.savez(here / "priors.npz", priors=FILLED)
    spec = compact(config_path=with_background, priors_path="priors.npz")
    assert planned(spec).priors == Path("priors.npz")
    assert problem({**spec, "config_path": without_background}, here) == (
        "priors_path",
        "priors.npz: no effect with generation.background drawn; remove it",
    )
    assert problem(without(spec, "priors_path"), here)[1].startswith("this key is required with generation.b")
    assert "absent.npz" in problem({**spec, "priors_path": "absent.npz"}, here)[1]
    for content in (b"PK\x03\x04 no archive", b"text", b""):
        write(here, content, "broken.npz")
        assert "broken.npz" in problem({**spec, "priors_path": "broken.npz"}, here)[1]
    np.save(here / "array.npy", np.ones(3, bool))
    assert "array.npy" in problem({**spec, "priors_path": "array.npy"}, here)[1]


def test_f7_an_output_folder_in_use_is_refused(checkpoint, here):
    (here / "drawn").mkdir()
    planned(COMPACT)
    (here / "drawn" / "notes.txt").touch()
    (here / "drawn" / "zbin-00.npz").touch()
    place, text = problem(COMPACT, here)
    assert place == "output_dir"
    assert text.startswith("drawn: expected only samples of this specification, ")
    assert text.endswith("found notes.txt")
    (here / "drawn" / "notes.txt").rename(here / "drawn" / "zbin-09.tsv")
    assert "found zbin-09.tsv" in problem(COMPACT, here)[1]
    assert problem(compact(output_dir="spec.json"), here)[1] == "spec.json: expected a folder, found a file"
    assert problem(compact(output_dir="spec.json/a/b"), here)[0] == "output_dir"
    assert problem(compact(output_dir="a" * 500), here)[0] == "output_dir"


def test_f7_problems_of_several_files_are_reported_at_once(checkpoint, study, here):
    (here / "drawn").mkdir()
    (here / "drawn" / "notes.txt").touch()
    spec = {**first(zbin=8), "config_path": study(slices={"n_bins": 9}), "priors_path": "absent.npz"}
    assert sorted(places(refused(spec, here))) == [
        "config_path",
        "output_dir",
        "priors_path",
        "samples[0].zbin",
    ]


@pytest.mark.parametrize("option", [{}, {"validate_only": True}, {"dry_run": True}])
def test_a_missing_device_is_an_error_before_drawing(checkpoint, study, here, monkeypatch, option):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (line,) = refused(detailed(device="cuda"), here, **option)
    assert line.startswith("device: device cuda: not found on this machine")
    assert places(refused(detailed(device="cuda", config_path="absent.yaml"), here)) == [
        "config_path",
        "device",
    ]
    (line,) = refused(detailed(config_path=study(generation={"device": "cuda"})), here, **option)
    assert line.startswith("config_path: device cuda: not found on this machine")


def test_f7_the_command_reports_on_standard_error_and_exits_2(checkpoint, here, capsys):
    for content in ("{", json.dumps(first(control=2.5)), json.dumps(detailed(sed=1))):
        write(here, content)
        before = tree(here)
        for flags in ([], ["--validate-only"], ["--dry-run"], ["--verbose"]):
            assert generate_spec(["--spec", "spec.json", *flags]) == 2
            said = capsys.readouterr()
            assert "error: spec.json" in said.err
            assert not said.out
        assert tree(here) == before
    write(here, DETAILED)
    assert generate_spec(["--spec", "spec.json", "--validate-only"]) == 0
    assert capsys.readouterr().out == "spec.json: valid, 6 samples\n"
    assert not (here / "drawn").exists()


@pytest.fixture
def drawn(checkpoint, study, here):
    """The samples of DETAILED, with a study of four evaluations."""
    spec = detailed(config_path=study(), seed=5)
    run_spec(write(here, spec))
    return spec


def test_samples_equal_those_of_the_generate_stage(drawn, here):
    config = GenerationConfig(evaluations=4, seed=5)
    counts = {(0, 0): 1, (0, 1): 2, (2, 1): 3}
    expected = [request for z_bin in (0, 2) for request in requests_of_bin(config, 1, "base", z_bin, counts)]
    found = read_samples(here / "drawn")
    assert found.id.tolist() == [request.id for request in expected]
    assert found.label.tolist() == [0, 1, 1, 1, 1, 1]
    rows = [row for z_bin in (0, 2) for row in read_table(here / "drawn" / f"zbin-{z_bin:02d}.tsv")]
    assert [row["key"] for row in rows] == [request.key for request in expected]
    assert sorted(path.name for path in (here / "drawn").iterdir()) == [
        f"zbin-{z_bin:02d}.{ending}" for z_bin in (0, 2) for ending in ("json", "npz", "tsv")
    ]


def test_a_specification_resumes_its_own_folder(drawn, here):
    whole = tree(here / "drawn")
    run_spec("spec.json")
    assert tree(here / "drawn") == whole
    (here / "drawn" / "zbin-02.tsv").unlink()
    (here / "drawn" / ".zbin-02.tsv.abc.tsv").touch()
    run_spec("spec.json")
    again = tree(here / "drawn")
    assert {path: again[path] for path in whole} == whole
    # With higher counts the first samples are kept.
    (here / "drawn" / ".zbin-02.tsv.abc.tsv").unlink()
    before = read_samples(here / "drawn")
    run_spec(write(here, {**drawn, "samples": [{"zbin": z, "control": 2, "lesion": 3} for z in range(3)]}))
    after = read_samples(here / "drawn")
    assert len(after.id) == 15
    kept = [after.id.tolist().index(name) for name in before.id]
    np.testing.assert_array_equal(after.images[kept], before.images)


# {name: (change of the specification, part of the message)}
OTHERS = {
    "seed": ({"seed": 6}, "generation.seed: expected 6, found 5"),
    "fewer": ({"samples": [{"zbin": 0, **COUNTS}, {"zbin": 2, **COUNTS}]}, "is none of the 2"),
    "z-bins": (
        {"samples": [{"zbin": 0, "control": 1, "lesion": 2}]},
        "found zbin-02.json, zbin-02.npz, zbin-02.tsv",
    ),
    "evaluations": ({"evaluations": 5}, "evaluations: expected 5, found 4"),
    "spacing": ({"spacing": "log_snr"}, "spacing: expected log_snr, found trailing"),
    "binary": ({"binary": True}, "binary: expected True, found False"),
    "precision": ({"precision": "bfloat16"}, "precision: expected bfloat16, found float32"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_f7_the_folder_of_another_specification_is_refused(name, drawn, study, here):
    changes, text = OTHERS[name]
    if changes.keys() & GenerationConfig.model_fields.keys() - {"seed"}:
        changes = {"config_path": study("other.json", changes)}
    for option in ({}, {"validate_only": True}):
        (line,) = refused({**drawn, **changes}, here, **option)
        assert line.startswith("output_dir: ")
        assert text in line


def test_f7_the_folder_of_another_checkpoint_is_refused(drawn, here):
    card = read_card(here / "model.safetensors")
    weights = {k: torch.zeros_like(v) for k, v in build_network(card.model, card.data).named_parameters()}
    save_model(here / "model.safetensors", weights, card)
    assert "checkpoint_sha256: expected" in problem(drawn, here)[1]
