"""`slimdiff reproduce`: what differs from a recorded run, and the study that runs it again."""

import json
import shutil

import pytest
import torch

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.model.checkpoint import load_model, save_model
from slimdiff.preflight import reproduction
from slimdiff.report import provenance


@pytest.fixture(scope="module")
def recorded(finished, tmp_path_factory):
    """A copy of a study with its record."""
    provenance.write_provenance(finished, ["base", "other"], 2)
    return shutil.copytree(finished.paths.root, tmp_path_factory.mktemp("recorded") / "results" / "tiny")


def edited(record: dict, path, **values) -> dict:
    changed = json.loads(json.dumps(record))
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = values["to"]
    return changed


def test_nothing_differs_where_it_was_recorded(recorded, capsys):
    assert cli.main(["reproduce", str(recorded / "provenance.json")]) == 0
    printed = capsys.readouterr().out
    assert "nothing differs here" in printed
    assert "compared files beside the record: 4 of 4 models, slices" in printed
    assert "snakemake --cores all --configfile" in printed


def test_a_record_alone_says_that_no_file_was_compared(recorded, tmp_path, capsys):
    shutil.copyfile(recorded / "provenance.json", tmp_path / "provenance.json")
    assert cli.main(["reproduce", str(tmp_path / "provenance.json")]) == 0
    assert "compared files beside the record: 0 of 4 models, no slices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("software", "git"), {"commit": "0000000; rm -rf ~", "changed": False}),
        (("software", "python"), "$(reboot)"),
        (("study",), "../other"),
        (("checkpoints", 0, "variant"), "../../other"),
        (("checkpoints",), {"base": 1}),
        (("store",), 3),
        (("extractors",), ["alexnet"]),
    ],
)
def test_a_record_of_a_stranger_is_refused_before_it_is_part_of_a_path_or_command(
    recorded, tmp_path, capsys, place, value
):
    record = reproduction.read_provenance(recorded / "provenance.json")
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps(edited(record, place, to=value)))
    assert cli.main(["reproduce", str(path)]) == 2
    printed = capsys.readouterr()
    assert f"{path}: expected the provenance.json of a study; {'.'.join(map(str, place))}" in printed.err
    assert not printed.out


def test_values_of_a_record_cannot_steer_the_terminal(recorded):
    record = reproduction.read_provenance(recorded / "provenance.json")
    found = [("machine.cpu", "\x1b[2J\u202e", "AMD")]
    text = reproduction.differences_text(record, found, "here")
    assert "\x1b" not in text and "\u202e" not in text and "\\u001b[2J\\u202e -> AMD" in text


def test_other_software_hardware_models_and_slices_are_named(recorded, tmp_path):
    folder = shutil.copytree(recorded, tmp_path / "tiny")
    record = reproduction.read_provenance(folder / "provenance.json")
    record = edited(record, ("software", "packages", "torch"), to="2.0.0")
    record = edited(record, ("machine", "cpu"), to="Another processor")
    with (folder / "slices" / "images.npy").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    model = folder / "models" / "base" / "fold-1" / "model.safetensors"
    model.write_bytes(model.read_bytes() + b" ")
    found = reproduction.differences(record, reproduction.this_machine(record, folder))
    assert [name for name, _, _ in found] == [
        "software.packages.torch",
        "machine.cpu",
        "store.sha256.images",
        "checkpoints.base/fold-1.sha256",
    ]
    assert "2.0.0 -> " in reproduction.differences_text(record, found, "here")


def test_a_run_with_changes_in_no_commit_is_said_to_be_one(recorded):
    record = reproduction.read_provenance(recorded / "provenance.json")
    record = edited(record, ("software", "git"), to={"commit": "0" * 40, "changed": True})
    text = reproduction.differences_text(record, [], "here")
    assert "the run had changes that are in no commit" in text
    assert f"git checkout {'0' * 40}" in reproduction.commands(record, recorded / "provenance.json", None)


def test_the_study_is_written_with_the_keys_to_edit_and_never_over_a_file(recorded, tmp_path, capsys):
    written = tmp_path / "again.json"
    command = ["reproduce", str(recorded / "provenance.json"), "--write", str(written)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    study, record = load_study(written), reproduction.read_provenance(recorded / "provenance.json")
    assert study.model_dump(mode="json") == record["config"] | {"results_dir": "reproduced"}
    assert f"{written}: data.root is" in printed
    assert printed.count("edit  ") == 1
    before = written.read_bytes()
    assert cli.main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert written.read_bytes() == before


def test_two_runs_are_compared_by_slices_and_weights(finished, recorded, tmp_path, capsys):
    """Other hardware in a card changes the file, not the weights."""
    record = reproduction.read_provenance(recorded / "provenance.json")
    elsewhere = edited(record, ("checkpoints", 0, "sha256"), to="of another card")
    other = edited(record, ("checkpoints", 0, "weights_sha256"), to="of other weights")
    sliced = edited(record, ("store", "sha256", "masks"), to="of other masks")
    for changed, status, text in (
        (record, 0, "slices: the same; models with the same weights: 4 of 4"),
        (elsewhere, 0, "models with the same weights: 4 of 4"),
        (other, 1, "models with the same weights: 3 of 4"),
        (sliced, 1, "slices: DIFFERENT"),
    ):
        path = tmp_path / "other.json"
        path.write_text(json.dumps(changed))
        command = ["reproduce", str(recorded / "provenance.json"), "--against", str(path)]
        if status:
            with pytest.raises(SystemExit) as error:
                cli.main(command)
            assert error.value.code == status
        else:
            assert cli.main(command) == 0
        assert text in capsys.readouterr().out


def test_the_hash_of_the_weights_is_of_the_tensors_alone(finished, tmp_path):
    from dataclasses import replace

    path = finished.paths.model("base", 0) / "model.safetensors"
    network, card = load_model(path, torch.device("cpu"))
    copy = finished.paths.__class__(tmp_path / "tiny")
    target = copy.model("base", 0) / "model.safetensors"
    target.parent.mkdir(parents=True)
    save_model(target, network.state_dict(), replace(card, study="another"))
    ours, theirs = (
        provenance.checkpoint(paths, "base", 0, card.data_hash) for paths in (finished.paths, copy)
    )
    assert ours["weights_sha256"] == theirs["weights_sha256"]
    assert ours["sha256"] != theirs["sha256"]


@pytest.mark.parametrize(("content", "text"), [("{}", "expected the provenance.json"), ("[]", "JSON object")])
def test_another_file_is_refused_by_name(tmp_path, capsys, content, text):
    path = tmp_path / "other.json"
    path.write_text(content)
    assert cli.main(["reproduce", str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and text in error
