"""A file that a stage reads back was cut off, or is empty: it is named, with what can be deleted safely."""

import errno
import io
import math
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.synthetic import study_mapping, write_bids
from helpers.tiny_training import CPU, assert_same_run, fail_at, trainer_in

from slimdiff import cli
from slimdiff.config import study_from_mapping
from slimdiff.data.participants import read_participants
from slimdiff.data.priors import read_priors
from slimdiff.data.quality.planes import read_planes
from slimdiff.data.store import SliceStore
from slimdiff.dataframes import read_frame
from slimdiff.evaluation.utility.segmenter import Segmenter, load_segmenter, save_segmenter
from slimdiff.files import CHECKSUM, read_object, read_table, write_table, write_text
from slimdiff.generation.samples import read_arrays, read_manifest
from slimdiff.model.checkpoint import read_card
from slimdiff.report.participants import read_records
from slimdiff.training.checkpoint import StateDamaged, StateNotRead, load_state
from slimdiff.training.distributed import Processes

CUTS = {
    "empty": lambda size: 0,
    "a few bytes": lambda size: 7,
    "half": lambda size: size // 2,
    "no end": lambda size: size - 9,
}


def cut(path: Path, how: str) -> Path:
    os.truncate(path, CUTS[how](path.stat().st_size))
    return path


class Interrupted(Exception):
    """The process ends."""


def end():
    raise Interrupted


def stopped_after_two_states(folder: Path) -> Path:
    """A training that saved the states of steps 3 and 6 and then ended; returns the path of the last one."""
    trainer = trainer_in(folder)
    fail_at(trainer, 7, end)
    with pytest.raises(Interrupted):
        trainer.run()
    assert sorted(path.name for path in (folder / "state").iterdir()) == ["last.pt", "previous.pt"]
    return trainer.state_path


@pytest.mark.parametrize("how", CUTS)
def test_a_training_whose_last_state_is_cut_resumes_from_the_one_before(tmp_path, capsys, how):
    trainer_in(tmp_path / "whole").run()
    last = cut(stopped_after_two_states(tmp_path / "run"), how)
    again = trainer_in(tmp_path / "run")
    steps = []
    advance = again.advance
    again.advance = lambda: steps.append(again.step) or advance()
    again.run()
    assert steps[0] == 3
    said = capsys.readouterr().err
    assert str(last) in said and "previous.pt, step 3" in said
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["last.pt"]


@pytest.mark.parametrize("how", CUTS)
def test_without_a_readable_state_the_folder_that_can_be_deleted_is_named(tmp_path, how):
    last = cut(stopped_after_two_states(tmp_path / "run"), how)
    cut(last.with_name("previous.pt"), how)
    before = {path: path.read_bytes() for path in last.parent.iterdir()}
    with pytest.raises(StateDamaged) as caught:
        trainer_in(tmp_path / "run").run()
    assert str(last.with_name("previous.pt")) in str(caught.value)
    assert f"delete {last.parent} to start this training again" in str(caught.value)
    assert {path: path.read_bytes() for path in last.parent.iterdir()} == before
    # The advice is safe.
    shutil.rmtree(last.parent)
    trainer_in(tmp_path / "whole").run()
    trainer_in(tmp_path / "run").run()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def pickled() -> bytes:
    return pickle.dumps({"step": 3, "identity": "{}"})


def saved_list() -> bytes:
    stream = io.BytesIO()
    torch.save([1, 2], stream)
    return stream.getvalue()


CONTENTS = {
    "text": b"hello",
    "zeros": bytes(5000),
    "a pickle": pickled(),
    "a list": saved_list(),
    "a zip file": b"PK\5\6" + bytes(18),
    "brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_state_that_is_none_is_named_with_the_folder_that_can_be_deleted(tmp_path, kind):
    path = tmp_path / "state" / "last.pt"
    path.parent.mkdir()
    path.write_bytes(CONTENTS[kind])
    with pytest.raises(StateDamaged) as caught:
        load_state(path, {})
    assert str(path) in str(caught.value) and f"delete {path.parent} to start" in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_a_flipped_number_in_a_state_is_found_although_torch_reads_it(tmp_path):
    last = stopped_after_two_states(tmp_path / "run")
    content = bytearray(last.read_bytes())
    values = torch.load(last, weights_only=True)["network"]
    weight = next(value for name, value in sorted(values.items()) if value.numel() > 64)
    content[content.index(weight.numpy().tobytes()[:64]) + 10] ^= 1
    last.write_bytes(bytes(content))
    # torch itself says nothing.
    torch.load(last, weights_only=True)
    last.with_name("previous.pt").unlink()
    with pytest.raises(StateDamaged, match="not what was saved, by its checksum"):
        trainer_in(tmp_path / "run").run()


def test_a_state_of_an_earlier_version_has_no_checksum_and_is_resumed(tmp_path, capsys):
    last = stopped_after_two_states(tmp_path / "run")
    state = torch.load(last, weights_only=True)
    state.pop(CHECKSUM)
    torch.save(state, last)
    trainer_in(tmp_path / "run").run()
    assert "resuming at step 6" in capsys.readouterr().err


def test_a_damaged_state_never_replaces_the_good_one_before(tmp_path):
    cut(stopped_after_two_states(tmp_path / "run"), "half")
    again = trainer_in(tmp_path / "run")
    fail_at(again, 4, end)
    with pytest.raises(Interrupted):
        again.run()
    # What is damaged is kept until the training ends.
    assert sorted(path.name for path in (tmp_path / "run" / "state").iterdir()) == [
        "last.pt.damaged",
        "previous.pt",
    ]
    again = trainer_in(tmp_path / "run")
    fail_at(again, 7, end)
    with pytest.raises(Interrupted):
        again.run()
    for name, step in (("previous.pt", 3), ("last.pt", 6)):
        assert torch.load(tmp_path / "run" / "state" / name, weights_only=True)["step"] == step


def raises(error: Exception):
    def fail(*arguments, **options):
        raise error

    return fail


FAILURES = {
    "memory of Python": (MemoryError(), "MemoryError"),
    "memory of a device": (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of"),
    "memory of torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "can't allocate memory"),
    "disk": (OSError(errno.EIO, "Input/output error"), "Input/output error"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_good_state_that_cannot_be_read_now_is_not_called_damaged_and_stays(tmp_path, monkeypatch, kind):
    last = stopped_after_two_states(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in last.parent.iterdir()}
    error, reason = FAILURES[kind]
    with monkeypatch.context() as patch, pytest.raises(StateNotRead, match=reason) as caught:
        # Only the last state fails: the one before could be read.
        load = torch.load
        patch.setattr(
            torch, "load", lambda path, **how: (raises(error) if path == last else load)(path, **how)
        )
        trainer_in(tmp_path / "run").run()
    assert str(last) in str(caught.value) and "it is kept" in str(caught.value)
    assert "damaged" not in str(caught.value) and "delete" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in last.parent.iterdir()} == before
    # The advice is true.
    again = trainer_in(tmp_path / "run")
    fail_at(again, 6, end)
    with pytest.raises(Interrupted):
        again.run()


def test_a_damaged_directory_is_no_error_of_the_disk(tmp_path, monkeypatch, capsys):
    """torch looks for a record at a place that the file cannot have."""
    last, load = stopped_after_two_states(tmp_path / "run"), torch.load
    fail = raises(OSError(errno.EINVAL, "Invalid argument"))
    monkeypatch.setattr(torch, "load", lambda path, **how: (fail if path == last else load)(path, **how))
    trainer_in(tmp_path / "run").run()
    assert "previous.pt, step 3" in capsys.readouterr().err


def test_a_state_needs_no_second_copy_on_the_device(tmp_path, monkeypatch):
    last = stopped_after_two_states(tmp_path / "run")
    places, load = [], torch.load
    monkeypatch.setattr(
        torch, "load", lambda path, **how: places.append(how["map_location"]) or load(path, **how)
    )
    trainer_in(tmp_path / "run").run()
    assert places == ["cpu"] and last.is_file()


def test_processes_that_read_states_of_different_steps_do_not_train(tmp_path):
    stopped_after_two_states(tmp_path / "run")

    class WithAnother(Processes):
        """Two processes; the other one read the state of step 3."""

        def largest(self, number: int) -> int:
            return max(number, int(math.copysign(3, number)))

    trainer = trainer_in(tmp_path / "run")
    trainer.processes = WithAnother()
    with pytest.raises(StateNotRead, match="different steps, this one of step 6; all states are kept"):
        trainer.run()


def test_a_file_system_without_hard_links_keeps_the_state_before_too(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    last = stopped_after_two_states(tmp_path / "run")
    for path, step in ((last.with_name("previous.pt"), 3), (last, 6)):
        assert torch.load(path, map_location=CPU, weights_only=True)["step"] == step


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results of a tiny study up to the priors."""
    folder = tmp_path_factory.mktemp("results")
    root = write_bids(folder / "bids", 3, 1)
    study = study_from_mapping(study_mapping(root, folder / "results"))
    for stage in ("participants", "preprocess", "kfold", "cache", "priors"):
        assert cli.run_stage(stage, ["--config", study.model_dump_json()]) == 0, stage
    save_segmenter(folder / "results/tiny/segmenter.safetensors", Segmenter((8, 8), 1, 1), {})
    return folder / "results" / "tiny"


READERS = {
    "participants.tsv": read_participants,
    "quality.tsv": lambda path: read_frame(path, ("participant_id", "verdict")),
    "volumes/sub-01.json": read_object,
    "quality/sub-01.npz": read_planes,
    "slices/store.json": lambda path: SliceStore.open(path.parent),
    "slices/images.npy": lambda path: SliceStore.open(path.parent),
    "priors/fold-0.npz": read_priors,
    "segmenter.safetensors": lambda path: load_segmenter(path, CPU),
}


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", READERS)
def test_a_cut_file_is_named_with_what_to_delete(results, tmp_path, name, how):
    shutil.copytree((results / name).parent, (tmp_path / name).parent, dirs_exist_ok=True)
    path = cut(tmp_path / name, how)
    with pytest.raises(ValueError) as caught:
        READERS[name](path)
    assert str(path) in str(caught.value)
    assert re.search("delete it and run|run that stage again", str(caught.value)), str(caught.value)


@pytest.mark.parametrize("how", CUTS)
def test_cut_samples_and_models_are_named_with_what_to_delete(trained, tmp_path, how):
    model = cut(Path(shutil.copy(trained, tmp_path / "model.safetensors")), how)
    with pytest.raises(ValueError, match=re.escape(str(model)) + ".*delete it and run the stage train again"):
        read_card(model)
    samples = tmp_path / "zbin-00.npz"
    with samples.open("wb") as stream:
        np.savez(stream, images=np.zeros((2, 4, 4)), masks=np.zeros((2, 4, 4)))
    cut(samples, how)
    with pytest.raises(
        ValueError, match=re.escape(str(samples)) + ".*delete it and its manifest zbin-00.tsv"
    ):
        read_arrays(samples.with_suffix(""))


def test_cut_settings_of_samples_are_deleted_together_with_the_samples(tmp_path):
    """Samples without their settings are refused, so deleting the settings alone would not help."""
    stem = tmp_path / "zbin-00"
    write_table(stem.with_suffix(".tsv"), [], ("id", "key", "z_bin", "class"))
    write_text(stem.with_suffix(".json"), '{"checkpoint_sha')
    with pytest.raises(ValueError) as caught:
        read_manifest(stem)
    assert "zbin-00.json: not readable as JSON" in str(caught.value)
    assert "delete it together with zbin-00.npz and zbin-00.tsv" in str(caught.value)


def test_a_table_without_an_end_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "t.tsv"
    write_table(path, [{"a": 1, "b": 0.123}], ("a", "b"), sealed=False)
    assert read_table(path, ended=True) == [{"a": "1", "b": "0.123"}]
    # Within the last cell: a number with fewer digits.
    os.truncate(path, path.stat().st_size - 2)
    with pytest.raises(ValueError, match=r"t\.tsv: .*cut off; if a stage wrote the file, .*delete it"):
        read_frame(path)
    # A table of the user's own may have no line break at the end.
    assert read_table(path) == [{"a": "1", "b": "0.12"}]
    os.truncate(path, 5)
    with pytest.raises(ValueError, match=r"t\.tsv, line 2: .*if a stage wrote the file, .*delete it"):
        read_table(path)


def test_pages_name_a_cut_record(tmp_path):
    write_text(tmp_path / "sub-01.json", '{"qc": {"lesion')
    with pytest.raises(
        ValueError, match=r"sub-01\.json: not readable as JSON .*delete it and run its stage again"
    ):
        read_records({"sub-01": tmp_path / "sub-01.json", "sub-02": tmp_path / "gone.json"})
