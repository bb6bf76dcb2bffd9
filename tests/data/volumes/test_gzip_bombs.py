"""A file is read and unpacked as far as the header of its volume goes; a bomb costs no memory and is named."""

import gzip
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import write_bids

from slimdiff.data.volumes.nifti import MARGIN, FileFault, read_nifti, voxel_count
from slimdiff.files import sha256

SHAPE = (16, 16, 16)
HUNDREDS_MB = 20


def header(shape=SHAPE, dtype=np.float32, before=0) -> bytes:
    made = nibabel.Nifti1Header()
    made.set_data_dtype(dtype)
    made.set_data_shape(shape)
    made.set_sform(np.eye(4), code=1)
    made["vox_offset"] = 352 + before
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


@pytest.mark.parametrize("size", [1, 7, 300, 65280])
def test_members_of_any_size_are_one_file(tmp_path, voxels, size):
    path, content = tmp_path / "a.nii.gz", header() + voxels.tobytes(order="F")
    if size == 65280:  # of bgzip; more than one is needed
        content = header((64, 64, 64)) + voxels.tobytes(order="F") * 64
    members = [gzip.compress(content[k : k + size], mtime=0) for k in range(0, len(content), size)]
    path.write_bytes(b"".join(members))
    found = read_nifti(path)
    assert found.stored.tobytes(order="F") == content[352:]
    assert found.sha256 == sha256(path)
    path.write_bytes(b"".join(members)[:-1])
    with pytest.raises(FileFault) as caught:
        read_nifti(path)
    assert caught.value.flag == "truncated"


def test_the_time_of_many_members_grows_with_their_number_alone(tmp_path):
    path, size = tmp_path / "a.nii.gz", 128
    path.write_bytes(gzip.compress(header((size,) * 3) + bytes(4 * size**3)) + gzip.compress(b"") * 400_000)
    began = time.process_time()
    assert not read_nifti(path).stored.any()
    # Copied once for each member, what follows it would be 1600 GB.
    assert time.process_time() - began < 6


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_with_a_hole_is_refused_unread(tmp_path, voxels, name):
    path, content = tmp_path / name, header() + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert np.array_equal(read_nifti(path).stored, voxels)
    os.truncate(path, 2**40)
    with pytest.raises(FileFault, match=f"promises {len(content)} bytes, and the file has {2**40}") as caught:
        read_nifti(path)
    assert caught.value.flag == "unreadable"


@pytest.mark.parametrize("packed", [False, True])
def test_extensions_of_the_header_count_and_have_a_limit(tmp_path, voxels, packed):
    path, extension = tmp_path / ("a.nii.gz" if packed else "a.nii"), bytes(3 * MARGIN)
    pack = gzip.compress if packed else bytes
    path.write_bytes(pack(header(before=len(extension)) + extension + voxels.tobytes(order="F")))
    assert np.array_equal(read_nifti(path).stored, voxels)
    path.write_bytes(pack(header(before=2**29)))
    with pytest.raises(FileFault, match="begin at byte 5368712.*; expected at most"):
        read_nifti(path)


@pytest.mark.skipif(os.name == "nt", reason="needs devices and pipes")
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_a_device_or_pipe_is_not_opened(tmp_path, kind):
    path = tmp_path / "a.nii"
    path.symlink_to(os.devnull) if kind == "device" else os.mkfifo(path)
    # Opened, a pipe blocks until it has a writer.
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it was opened"))
    signal.alarm(20)
    try:
        with pytest.raises(FileFault, match="expected a file, found a device, pipe or socket"):
            read_nifti(path)
        assert voxel_count(path) is None
    finally:
        signal.alarm(0)


WITH_LITTLE_MEMORY = """
import re, resource, sys
from pathlib import Path
from slimdiff.data.volumes.read import VolumeError, read_volume

own = int(re.search(r"VmSize:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (own + 400_000_000,) * 2)
try:
    read_volume(Path(sys.argv[1]), "sub-7")
except VolumeError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_a_volume_without_memory_for_it_is_named(tmp_path, dtype):
    """Of float64 the file has no place, of uint8 its float32. A new process: an old one may have memory to reuse."""
    path, shape = tmp_path / "a.nii", (512, 512, 512)
    path.write_bytes(header(shape, dtype))
    os.truncate(path, 352 + 512**3 * np.dtype(dtype).itemsize)
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"sub-7: {path}") and "memory of this machine" in done.stdout


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
