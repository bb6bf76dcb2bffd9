"""A specification beside its study, checkpoint, priors and folder: what is planned, refused and drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.specifications import (
    COMPACT,
    COUNTS,
    DETAILED,
    NO_COUNT,
    compact,
    detailed,
    first,
    overrides,
    places,
    planned,
    problem,
    refused,
    tree,
    without,
    write,
    zbins,
)

from slimdiff.cli import generate_spec
from slimdiff.config.generation import GenerationConfig
from slimdiff.files import read_table
from slimdiff.generation.requests import requests_of_bin
from slimdiff.generation.samples import read_samples
from slimdiff.model.checkpoint import build_network, read_card, save_model
from slimdiff.stages.commands.generate_spec import run_spec

ROOT = Path(__file__).parents[2]


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
        "priors.npz: no effect with generation.background outside; remove it",
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
    "spacing": ({"spacing": "trailing"}, "spacing: expected trailing, found log_snr"),
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
