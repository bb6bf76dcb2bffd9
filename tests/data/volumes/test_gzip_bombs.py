"""A gzip stream is unpacked as far as the header of its volume goes; a bomb costs no memory and is named."""

import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import write_bids

from slimdiff.data.volumes.nifti import MARGIN, FileFault, read_nifti

SHAPE = (16, 16, 16)
HUNDREDS_MB = 20


def header(shape=SHAPE, dtype=np.float32) -> bytes:
    made = nibabel.Nifti1Header()
    made.set_data_dtype(dtype)
    made.set_data_shape(shape)
    made.set_sform(np.eye(4), code=1)
    made["vox_offset"] = 352
    return made.binaryblock + bytes(4)


def bomb(path: Path, start: bytes) -> None:
    """`start`, then 2 GB of zeros."""
    packer, block = zlib.compressobj(1, zlib.DEFLATED, 31), bytes(100_000_000)
    path.write_bytes(
        packer.compress(start) + b"".join(packer.compress(block) for _ in range(HUNDREDS_MB)) + packer.flush()
    )


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("more", [0, 1, MARGIN])
def test_what_follows_the_voxels_within_the_margin_is_ignored(tmp_path, voxels, more):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header() + voxels.tobytes(order="F") + bytes(more)))
    assert np.array_equal(read_nifti(path).stored, voxels)
    path.write_bytes(gzip.compress(header() + voxels.tobytes(order="F") + bytes(MARGIN + 1)))
    with pytest.raises(FileFault, match="no more was unpacked"):
        read_nifti(path)


def test_several_members_and_padding_are_one_file(tmp_path, voxels):
    path, content = tmp_path / "a.nii.gz", header() + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]) + bytes(64))
    assert np.array_equal(read_nifti(path).stored, voxels)


def test_damage_and_every_cut_are_found(tmp_path, voxels):
    path = tmp_path / "a.nii.gz"
    content = gzip.compress(header() + voxels.tobytes(order="F"))
    for place in range(20, len(content), len(content) // 40):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(bytes(damaged))
        with pytest.raises(FileFault):
            read_nifti(path)
        path.write_bytes(content[:place])
        with pytest.raises(FileFault):
            read_nifti(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((2000, 2000, 2000), np.uint8, "at most 1073741824 voxels"),
        ((32767,) * 7, np.float64, "at most 1073741824 voxels"),
        ((1000, 1000, 1000), np.float64, "promises|memory"),
    ],
)
def test_a_header_that_promises_too_much_is_refused_before_anything_is_unpacked(
    tmp_path, shape, dtype, words
):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header(shape, dtype) + bytes(1000)))
    with pytest.raises(FileFault, match=words):
        read_nifti(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux counts it")
@pytest.mark.parametrize("kind", ["a volume", "zeros alone", "a mask"])
def test_a_bomb_in_a_dataset_costs_no_memory_and_names_its_participant(tmp_path, voxels, kind):
    write_bids(tmp_path / "bids", 3, 1)
    name = "sub-02_FLAIR_roi.nii.gz" if kind == "a mask" else "sub-02_FLAIR.nii.gz"
    path = tmp_path / "bids" / "sub-02" / "anat" / name
    start = b"" if kind == "zeros alone" else gzip.decompress(path.read_bytes())
    bomb(path, start)
    (tmp_path / "s.yaml").write_text(
        f"study: t\nresults_dir: {tmp_path / 'results'}\ndata: {{source: bids, root: {tmp_path / 'bids'}}}\n"
        "quality: {max_spacing_mm: 7, policy: error}\n"
    )
    # Not ru_maxrss of the process itself, which begins with that of the process that started it.
    script = (
        "import re, resource, sys\nfrom slimdiff import cli\n"
        "status = cli.run_stage('participants', ['--config', sys.argv[1]])\n"
        "print('status', status, 'MB', "
        "int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 1024,\n"
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s.yaml")], capture_output=True, text=True
    )
    assert "status 2" in done.stdout, done.stdout + done.stderr
    assert "sub-02" in done.stderr and name in done.stderr
    own, children = map(float, done.stdout.split()[-2:])
    assert max(own, children) < 1000
