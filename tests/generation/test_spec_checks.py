"""F7: a specification against the checkpoint and the files that it names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.spec_files import (
    COMPACT,
    COUNTS,
    DETAILED,
    card_of,
    changed,
    fault,
    first,
    overrides,
    refused,
    tree,
    without,
    write,
    zbins,
)

from slimdiff.cli import generate_spec
from slimdiff.config.generation import GenerationConfig
from slimdiff.generation import spec as spec_module
from slimdiff.generation.spec import load_spec, plan, run_spec, spec_from_values
from slimdiff.model.checkpoint import read_card, save_model


def write_priors(folder: Path, maps: np.ndarray, key: str = "priors") -> str:
    np.savez(folder / "priors.npz", **{key: maps})
    return "priors.npz"


def test_a_plan_has_the_config_s_settings_with_the_specification_s_over_them(checkpoint, study, here):
    config_path = study(generation={"seed": 3, "tau": 0.25, "replicas": 5, "per_bin_and_class": 9})
    spec = changed(COMPACT, config_path=config_path, seed=11, device="cuda", replicas=2)
    whole = plan(load_spec(write(here, spec)), Path("spec.json"))
    wanted = GenerationConfig(seed=11, device="cuda", replicas=2, tau=0.25, evaluations=4)
    assert whole.generation == wanted
    assert (whole.checkpoint, whole.card, whole.priors) == (checkpoint, read_card(checkpoint), None)
    assert whole.total == 2 * 10
    assert whole.evaluations == 20 * 4
    assert whole.size_bytes == 20 * (8 * 8 * 2) * 2
    untold = plan(spec_from_values(changed(COMPACT, config_path=config_path)), Path("s"))
    assert (untold.generation.seed, untold.generation.device, untold.generation.replicas) == (3, "cpu", 5)
    assert plan(spec_from_values(COMPACT), Path("s")).generation == GenerationConfig()


def test_a_dry_run_shows_the_plan_and_writes_nothing(checkpoint, study, here, capsys, monkeypatch):
    monkeypatch.setattr(spec_module, "draw_into", None)
    path = write(here, changed(COMPACT, config_path=study(), device="cuda", replicas=2))
    before = tree(here)
    run_spec(path, validate_only=True)
    assert capsys.readouterr().out == "spec.json: valid, 20 samples\n"
    run_spec(path, dry_run=True)
    shown = capsys.readouterr().out
    table = [line.split() for line in shown.splitlines()[1:5]]
    assert table == [
        ["0", "2", "1", "2", "6"],
        ["1", "0", "4", "2", "8"],
        ["2", "2", "1", "2", "6"],
        ["all", "4", "6", "2", "20"],
    ]
    assert "80 network evaluations" in shown
    assert "zbin-00 ... zbin-02" in shown
    run_spec(path, dry_run=True, verbose=True)
    detailed = capsys.readouterr().out
    assert shown in detailed
    assert "study tiny, variant base, fold 1, step 7" in detailed
    assert "dpmpp_2m" in detailed
    assert tree(here) == before


def test_f7_what_the_checkpoint_says(checkpoint, here):
    assert fault(changed(DETAILED, checkpoint_path="no.safetensors"), here) == (
        "/checkpoint_path",
        "no.safetensors: no such checkpoint",
    )
    write(here, b"\x80\x02}q", "old.ckpt")
    place, text = fault(changed(DETAILED, checkpoint_path="old.ckpt"), here)
    assert (place, "not a safetensors file" in text) == ("/checkpoint_path", True)
    assert fault(first(zbin=3), here) == (
        "/samples/0/zbin",
        "found z-bin 3; the checkpoint has z-bins 0 to 2",
    )
    assert fault(zbins([0, "2-5"]), here) == (
        "/defaults/zbins/1",
        "found z-bins 2 to 5; the checkpoint has z-bins 0 to 2",
    )
    assert fault(overrides(3, zbins="all"), here)[0] == "/overrides/0/zbin"
    nothing = [{"zbin": z, "control": 0, "lesion": 0} for z in range(3)]
    spec = changed(COMPACT, defaults={**COUNTS, "zbins": "all"}, overrides=nothing)
    assert fault(spec, here) == ("/overrides", "they leave no sample at all; one count above 0 is wanted")


MISFITS = {
    "z-bins": ({"slices": {"n_bins": 4}}, "slices.n_bins is 4, but model.safetensors was trained with 3"),
    "grid": (
        {"preprocess": {"grid": [16, 8, 90]}},
        "slices of 16 x 8 px, but model.safetensors was trained on 8 x 8",
    ),
    "spacing": (
        {"preprocess": {"spacing_mm": 1.0}},
        "spacing_mm is 1, but model.safetensors was trained on 6",
    ),
    "guidance": ({"generation": {"guidance": 2.0}}, "was trained without model.null_token"),
    "guide": (
        {"generation": {"guidance": 2.0, "guide": 5}},
        "snapshot-5.safetensors: generation.guide names it",
    ),
    "acquisition": ({"generation": {"acquisition": "T2sel"}}, "it was trained without model.acquisition"),
    "levels": ({"generation": {"sampler": "ddim_ref", "evaluations": 1000}}, None),
    "start": ({"generation": {"spacing": "leading", "evaluations": 3}}, "generation: "),
    "unknown key": ({"generation": {"sampling": 3}}, "generation.sampling: unknown key"),
    "wrong value": ({"generation": {"evaluations": 1}}, "generation.evaluations: "),
}


@pytest.mark.parametrize("name", MISFITS)
def test_f7_a_study_that_does_not_fit_the_checkpoint(name, checkpoint, study, here):
    values, text = MISFITS[name]
    spec = changed(COMPACT, config_path=study(**values))
    if text is None:
        plan(spec_from_values(spec), Path("s"))
        return
    place, found = fault(spec, here)
    assert place == "/config_path"
    assert text in found


def test_what_a_study_leaves_to_its_defaults_says_nothing(checkpoint, study, here):
    """Its n_bins, grid and spacing are the paper's then, which this checkpoint's are not."""
    plan(spec_from_values(changed(COMPACT, config_path=study())), Path("s"))
    fits = study(slices={"n_bins": 3, "z_range": "auto"}, preprocess={"grid": [8, 8, 40], "spacing_mm": 6.0})
    plan(spec_from_values(changed(COMPACT, config_path=fits)), Path("s"))


def test_a_network_of_turned_slices_is_compared_in_the_store_s_orientation(here, study):
    card = card_of(size=(8, 16), quarter_turns=1)
    save_model(here / "model.safetensors", {"weight": torch.zeros(1)}, card)
    # 16 rows of 8 px: the grid is named by width first.
    plan(spec_from_values(changed(COMPACT, config_path=study(preprocess={"grid": [8, 16, 40]}))), Path("s"))
    place, text = fault(changed(COMPACT, config_path=study(preprocess={"grid": [16, 8, 40]})), here)
    assert (place, "16 x 8 px" in text) == ("/config_path", True)


@pytest.mark.parametrize("path", ["absent.yaml", "."])
def test_f7_a_missing_study_is_refused(path, checkpoint, here):
    assert fault(changed(COMPACT, config_path=path), here)[0] == "/config_path"


def test_variants_and_numbers_of_a_study_have_no_say_and_that_is_told(checkpoint, study, here):
    config_path = study(
        generation={"counts": "absent.tsv"}, variants={"base": {"generation": {"evaluations": 50}}}
    )
    whole = plan(spec_from_values(changed(COMPACT, config_path=config_path)), Path("s"))
    assert (whole.generation.counts, whole.generation.evaluations) == (None, 4)
    assert len(whole.notes) == 2
    assert all(f"note: {note}" in whole.describe() for note in whole.notes)


WRONG_PRIORS = {
    "shape": (lambda: np.ones((3, 8, 9), bool), "priors", "3 z-bins of 8 x 8 px are wanted"),
    "bins": (lambda: np.ones((2, 8, 8), bool), "priors", "3 z-bins"),
    "dtype": (lambda: np.ones((3, 8, 8), np.uint8), "priors", "priors are uint8; bool is wanted"),
    "key": (lambda: np.ones((3, 8, 8), bool), "prior", "priors"),
    "pickle": (lambda: np.array([{}], object), "priors", "priors.npz: "),
    "empty": (
        lambda: np.arange(3)[:, None, None] * np.ones((3, 8, 8)) > 0,
        "priors",
        "prior of z-bin 0 is empty",
    ),
}


@pytest.mark.parametrize("name", WRONG_PRIORS)
def test_f7_priors_that_do_not_fit(name, checkpoint, study, here):
    maps, key, text = WRONG_PRIORS[name]
    config_path = study(generation={"background": "prior"})
    spec = changed(COMPACT, config_path=config_path, priors_path=write_priors(here, maps(), key))
    place, found = fault(spec, here)
    assert place == "/priors_path"
    assert text in found


def test_f7_priors_are_given_where_they_are_read_and_only_there(checkpoint, study, here):
    asked, not_asked = study("a.json", {"background": "prior"}), study("b.json")
    priors_path = write_priors(here, np.ones((3, 8, 8), bool))
    spec = changed(COMPACT, config_path=asked, priors_path=priors_path)
    assert plan(spec_from_values(spec), Path("s")).priors == Path(priors_path)
    assert fault(changed(spec, config_path=not_asked), here) == (
        "/priors_path",
        "found priors.npz, but generation.background is drawn, which reads no priors",
    )
    assert fault(without(spec, "priors_path"), here)[1].startswith("missing, but generation.background")
    assert "absent.npz" in fault(changed(spec, priors_path="absent.npz"), here)[1]
    for content in (b"PK\x03\x04 no archive", b"text", b""):
        write(here, content, "broken.npz")
        assert "broken.npz" in fault(changed(spec, priors_path="broken.npz"), here)[1]
    np.save(here / "array.npy", np.ones(3, bool))
    assert "array.npy" in fault(changed(spec, priors_path="array.npy"), here)[1]


def test_f7_an_output_folder_in_use_is_refused(checkpoint, here):
    (here / "drawn").mkdir()
    plan(spec_from_values(COMPACT), Path("s"))
    (here / "drawn" / "notes.txt").touch()
    (here / "drawn" / "zbin-00.npz").touch()
    place, text = fault(COMPACT, here)
    assert place == "/output_dir"
    assert text.startswith("drawn: in use, found notes.txt; a new or empty folder is wanted")
    (here / "drawn" / "notes.txt").rename(here / "drawn" / "zbin-09.tsv")
    assert "found zbin-09.tsv" in fault(COMPACT, here)[1]
    assert fault(changed(COMPACT, output_dir="spec.json"), here)[1].startswith("spec.json: a file")
    assert fault(changed(COMPACT, output_dir="spec.json/a/b"), here)[0] == "/output_dir"
    assert fault(changed(COMPACT, output_dir="a" * 500), here)[0] == "/output_dir"


def test_faults_of_several_files_are_told_at_once(checkpoint, study, here):
    (here / "drawn").mkdir()
    (here / "drawn" / "notes.txt").touch()
    spec = changed(first(zbin=8), config_path=study(slices={"n_bins": 9}), priors_path="absent.npz")
    assert [line.split(": ")[0].removeprefix("spec.json#") for line in refused(spec, here)] == [
        "/priors_path",
        "/samples/0/zbin",
        "/config_path",
        "/output_dir",
    ]


def test_f7_the_command_says_it_on_standard_error_and_exits_2(checkpoint, here, capsys):
    for content in ("{", json.dumps(first(control=2.5)), json.dumps(changed(DETAILED, sed=1))):
        write(here, content)
        before = tree(here)
        for flags in ([], ["--validate-only"], ["--dry-run"], ["--verbose"]):
            assert generate_spec(["--spec", "spec.json", *flags]) == 2
            said = capsys.readouterr()
            assert "error: spec.json" in said.err
            assert not said.out
        assert tree(here) == before
    assert generate_spec(["--spec", "absent.json"]) == 2
    write(here, DETAILED)
    assert generate_spec(["--spec", "spec.json", "--validate-only"]) == 0
    assert capsys.readouterr().out == "spec.json: valid, 6 samples\n"
    assert not (here / "drawn").exists()
