"""A disk that is full, and a limit of file sizes: the file is named, with what it takes, and what was there stays."""

import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from slimdiff.data.priors import write_priors
from slimdiff.data.volumes.nifti import write_nifti
from slimdiff.files import NoSpace, write_table, write_text
from slimdiff.generation.samples import write_samples
from slimdiff.model.archive import write_archive
from slimdiff.training.checkpoint import StateNotSaved, save_state

MB = 2**20
NOISE = np.random.default_rng(0).random((4, 256, 256)).astype(np.float16)
WRITERS = {
    "model.safetensors": lambda path: write_archive(path, {"w": torch.zeros(MB)}, "slimdiff", {"a": 1}),
    "zbin-00.npz": lambda path: write_samples(path.with_suffix(""), NOISE, NOISE, []),
    "fold-0.npz": lambda path: write_priors(path, NOISE),
    "sub-01_FLAIR.nii.gz": lambda path: write_nifti(path, NOISE.astype(np.float32), np.eye(4)),
    "table.tsv": lambda path: write_table(path, [{"a": "x" * 1000}] * 2000, ("a",)),
    "store.json": lambda path: write_text(path, "x" * 2 * MB),
}


@contextmanager
def limited(size: int):
    """Files of this process may have at most this size; the real call fails with the real error."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if (
        sys.platform != "linux"
        or not shutil.which("mount")
        or subprocess.run(command, capture_output=True).returncode
    ):
        pytest.skip("this user cannot mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_refused(folder: Path, name: str) -> str:
    path = folder / name
    path.write_bytes(b"what was there")
    with pytest.raises(NoSpace) as caught:
        WRITERS[name](path)
    assert path.read_bytes() == b"what was there"
    assert [other.name for other in folder.iterdir()] == [name]
    assert str(path) in str(caught.value)
    assert "MB or more are needed" in str(caught.value) and "Free disk space" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_names_the_file_and_what_it_takes(small_disk, name):
    said = assert_refused(small_disk, name)
    if name == "model.safetensors":
        assert "4.194 MB or more are needed" in said and "0.2" in said


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_file_sizes_names_the_file_and_what_it_takes(tmp_path, name):
    with limited(100_000):
        assert_refused(tmp_path, name)


def test_a_state_on_a_full_disk_says_what_it_takes_and_keeps_the_one_before(small_disk):
    path = small_disk / "last.pt"
    save_state(path, {"step": 1, "w": torch.zeros(10)}, {})
    before = path.read_bytes()
    with pytest.raises(
        StateNotSaved, match=r"last\.pt: the state of step 2 .*4\.194 MB needed, .*previous state: kept"
    ):
        save_state(path, {"step": 2, "w": torch.zeros(MB)}, {})
    assert path.read_bytes() == before
