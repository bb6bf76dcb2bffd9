"""The samples that a specification draws, its folder gone on with, and other specifications' folders refused (F7)."""

import json

import numpy as np
import pytest
import torch
from helpers.spec_files import (
    COUNTS,
    DETAILED,
    changed,
    fault,
    tree,
    write,
)
from helpers.tiny_sampling import CONFIG

from slimdiff.files import read_table
from slimdiff.generation.requests import requests_of_bin
from slimdiff.generation.samples import read_samples
from slimdiff.generation.spec import SpecError, run_spec
from slimdiff.model.checkpoint import build_network, read_card, save_model


@pytest.fixture
def drawn(checkpoint, study, here):
    """The samples of DETAILED, with a config of four evaluations."""
    spec = changed(DETAILED, config_path=study(), seed=5)
    run_spec(write(here, spec))
    return spec


def test_samples_are_those_of_the_generate_stage(drawn, here):
    config = CONFIG.model_copy(update={"seed": 5})
    counts = {(0, 0): 1, (0, 1): 2, (2, 1): 3}
    wanted = [request for z_bin in (0, 2) for request in requests_of_bin(config, 1, "base", z_bin, counts)]
    found = read_samples(here / "drawn")
    assert found.id.tolist() == [request.id for request in wanted]
    assert found.label.tolist() == [0, 1, 1, 1, 1, 1]
    rows = [row for z_bin in (0, 2) for row in read_table(here / "drawn" / f"zbin-{z_bin:02d}.tsv")]
    assert [row["key"] for row in rows] == [request.key for request in wanted]
    assert sorted(path.name for path in (here / "drawn").iterdir()) == [
        f"zbin-{z_bin:02d}.{ending}" for z_bin in (0, 2) for ending in ("npz", "tsv")
    ]


def test_a_specification_goes_on_with_its_own_folder(drawn, here):
    whole = tree(here / "drawn")
    run_spec("spec.json")
    assert tree(here / "drawn") == whole
    (here / "drawn" / "zbin-02.tsv").unlink()
    (here / "drawn" / ".zbin-02.tsv.abc.tsv").touch()
    run_spec("spec.json")
    again = tree(here / "drawn")
    assert {path: again[path] for path in whole} == whole
    # More of the same: what lies there stays.
    (here / "drawn" / ".zbin-02.tsv.abc.tsv").unlink()
    before = read_samples(here / "drawn")
    more = changed(drawn, samples=[{"zbin": z, "control": 2, "lesion": 3} for z in range(3)])
    run_spec(write(here, more))
    after = read_samples(here / "drawn")
    assert len(after.id) == 15
    kept = [after.id.tolist().index(name) for name in before.id]
    np.testing.assert_array_equal(after.images[kept], before.images)


OTHERS = {
    "seed": ({"seed": 6}, "key is seed=5/"),
    "fewer": (
        {"samples": [{"zbin": 0, "control": 1, "lesion": 1}, {"zbin": 2, **COUNTS}]},
        "is none of this",
    ),
    "z-bins": (
        {"samples": [{"zbin": 0, "control": 1, "lesion": 2}]},
        "in use, found zbin-02.npz, zbin-02.tsv",
    ),
    "evaluations": ({"config_path": "other.json"}, "evaluations is 4, this specification has 5"),
    "spacing": ({"config_path": "spacing.json"}, "spacing is trailing, this specification has log_snr"),
    "binary": ({"config_path": "binary.json"}, "binary is 0, this specification has 1"),
    "precision": ({"config_path": "precision.json"}, "precision is float32, this specification has bfloat16"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_f7_the_folder_of_another_specification_is_refused(name, drawn, study, here):
    changes, text = OTHERS[name]
    study("other.json", {"evaluations": 5})
    study("spacing.json", {"spacing": "log_snr"})
    study("binary.json", {"binary": True})
    study("precision.json", {"precision": "bfloat16"})
    place, found = fault(changed(drawn, **changes), here)
    assert place == "/output_dir"
    assert text in found


def test_f7_the_folder_of_another_checkpoint_is_refused(drawn, here):
    card = read_card(here / "model.safetensors")
    weights = {k: torch.zeros_like(v) for k, v in build_network(card.model, card.data).named_parameters()}
    save_model(here / "model.safetensors", weights, card)
    assert "checkpoint_sha256 is" in fault(drawn, here)[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without CUDA")
def test_a_device_that_is_not_there_is_told_where_it_is_asked_for(drawn, here, capsys):
    """Valid everywhere, drawn only where there is one."""
    path = here / "cuda.json"
    path.write_text(json.dumps(changed(drawn, device="cuda", output_dir="elsewhere")))
    run_spec(path, validate_only=True)
    assert "valid" in capsys.readouterr().out
    with pytest.raises(SpecError, match=r"cuda\.json#/device: device cuda: this machine has none"):
        run_spec(path)
    assert not (here / "elsewhere").exists()
