"""NaN in what a network draws, or in an archive of samples, is an error; it never becomes an archive or a metric."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slimdiff import cli
from slimdiff.generation import generator
from slimdiff.generation.samples import read_arrays, read_samples
from slimdiff.model.unet import JointUNet


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_drawn_and_not_finite_is_named_and_not_written(checkpoint, here, capsys, monkeypatch, value):
    forward, calls = JointUNet.forward, []

    def broken(self, x, timestep, condition, previous=None):
        calls.append(1)
        out = forward(self, x, timestep, condition, previous)
        # A single sample: class 1 of z-bin 2.
        bad = (condition.z_bin == 2) & (condition.label == 1)
        return torch.where(bad.view(-1, 1, 1, 1), torch.full_like(out, value), out)

    monkeypatch.setattr(JointUNet, "forward", broken)
    # Without the limits of a sampler, which hide an infinity.
    Path("s.json").write_text(json.dumps({"study": "t", "generation": {"device": "cpu", "evaluations": 2}}))
    words = ["--config", "s.json", "--ckpt", str(checkpoint), "--out-dir", "out", "--n-per-condition", "2"]
    status = cli.run_stage("generate", words)
    said = capsys.readouterr().err
    assert calls
    if status == 0:
        # The sampler limits an estimate, so that an infinity ends within the range.
        assert np.isinf(value) and np.isfinite(read_samples(Path("out")).images).all()
        return
    assert status == 2
    assert str(checkpoint) in said and "z-bin 2, class 1" in said and "generation.precision" in said
    assert sorted(path.name for path in Path("out").glob("zbin-*")) == [
        f"zbin-0{z}.{ending}" for z in (0, 1) for ending in ("json", "npz", "tsv")
    ]


def test_nan_never_ends_as_samples(checkpoint, here, capsys, monkeypatch):
    monkeypatch.setattr(
        JointUNet, "forward", lambda self, x, *more, **other: torch.full_like(x, float("nan"))
    )
    Path("s.json").write_text(json.dumps({"study": "t", "generation": {"device": "cpu", "evaluations": 2}}))
    words = ["--config", "s.json", "--ckpt", str(checkpoint), "--out-dir", "out", "--n-per-condition", "1"]
    assert cli.run_stage("generate", words) == 2
    assert "NaN" in capsys.readouterr().err and not list(Path("out").glob("zbin-*"))
    assert generator.Generator


ARCHIVES = {
    "NaN": lambda a: a | {"images": np.where(np.arange(2)[:, None, None] == 1, np.nan, a["images"])},
    "infinite": lambda a: a | {"masks": np.full_like(a["masks"], np.inf)},
    "other keys": lambda a: {"pictures": a["images"], "masks": a["masks"]},
    "no masks": lambda a: {"images": a["images"]},
    "text": lambda a: a | {"images": np.array(["a", "b"])},
    "one number": lambda a: a | {"images": np.float16(3)},
    "flat": lambda a: a | {"images": a["images"].reshape(2, -1)},
    "fewer masks": lambda a: a | {"masks": a["masks"][:1]},
    "complex": lambda a: a | {"images": a["images"].astype(np.complex64)},
    "objects": lambda a: a | {"images": np.array([{}, {}], object)},
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_holds_no_samples_is_named(tmp_path, kind):
    path = tmp_path / "zbin-00.npz"
    arrays = {"images": np.zeros((2, 4, 4), np.float16), "masks": np.zeros((2, 4, 4), np.float16)}
    np.savez(path, **ARCHIVES[kind](arrays))
    with pytest.raises(ValueError) as caught:
        read_arrays(path.with_suffix(""))
    assert str(path) in str(caught.value) and "delete it and its manifest zbin-00.tsv" in str(caught.value)
    if kind == "NaN":
        assert "images: sample 1 of 2" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"hello", b"\x93NUMPY\1\0", b"\x80\4."])
def test_a_file_that_is_no_archive_is_named(tmp_path, content):
    path = tmp_path / "zbin-00.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"zbin-00\.npz: not readable"):
        read_arrays(path.with_suffix(""))


def test_a_flip_anywhere_in_an_archive_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "zbin-00.npz"
    rng = np.random.default_rng(0)
    whole = {name: rng.random((2, 4, 4)).astype(np.float16) for name in ("images", "masks")}
    np.savez(path, **whole)
    content, found = path.read_bytes(), 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        try:
            arrays = read_arrays(path.with_suffix(""))
        except ValueError as error:
            assert str(path) in str(error)
            found += 1
            continue
        assert arrays.keys() == whole.keys(), place
        assert all(np.array_equal(arrays[name], whole[name]) for name in whole), place
    assert found > len(content) / 2
