"""Cards without torch: what a driver, a wheel and a card allow, and a lock a card for the jobs of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slimdiff import cards
from slimdiff.cards import Build, Card, Driver, fitting_wheel, has_kernels, obstacle_of

PASCAL, VOLTA, TURING, ADA, HOPPER, BLACKWELL = (6, 1), (7, 0), (7, 5), (8, 9), (9, 0), (12, 0)
CU132 = Build("2.15.0+cu132", (13, 2), ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))


def driver(cuda, *capabilities) -> Driver:
    return Driver(cuda, tuple(Card(f"card {i}", one) for i, one in enumerate(capabilities)))


def test_the_installed_build_is_read_without_importing_torch():
    script = (
        "import sys; from slimdiff import cards; build = cards.torch_build(); "
        "print(build.version, build.cuda, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    cuda = torch.version.cuda and tuple(map(int, torch.version.cuda.split(".")[:2]))
    assert done.stdout.split(" ", 1) == [torch.__version__, f"{cuda} False\n"]


def test_kernels_are_those_that_torch_names():
    assert cards.kernel_archs() == (
        tuple(torch._C._cuda_getArchFlags().split()) if torch.version.cuda else None
    )


@pytest.mark.parametrize(
    ("archs", "capability", "fits"),
    [
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_75", "sm_80"], PASCAL, False),
        (["sm_90"], BLACKWELL, False),
        (["compute_90"], BLACKWELL, True),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["sm_120"], BLACKWELL, True),
        (["gfx90a"], (9, 0), False),
    ],
)
def test_kernels_run_on_later_minor_versions_of_their_major_version(archs, capability, fits):
    assert has_kernels(archs, capability) == fits


@pytest.mark.parametrize(
    ("cuda", "capability", "words"),
    [
        ((13, 0), HOPPER, ['"torch" torchvision', "/cu130"]),
        ((12, 4), ADA, ['"torch<2.15"', "/cu126"]),
        ((12, 4), HOPPER, ['"torch<2.11"', "/cu128"]),
        ((12, 8), BLACKWELL, ['"torch<2.11"', "/cu128"]),
        ((13, 0), PASCAL, ['"torch<2.15"', "/cu126"]),
        ((13, 2), VOLTA, ['"torch<2.15"', "/cu126"]),
        ((11, 4), TURING, ["update the driver", "/cu130"]),
        ((11, 4), PASCAL, ["update the driver", "/cu126"]),
        ((12, 0), (3, 5), ["no wheel"]),
    ],
)
def test_the_wheel_fits_the_driver_and_the_card(cuda, capability, words):
    advice = fitting_wheel(cuda, capability)
    assert all(word in advice for word in words)
    assert "no wheel" in advice or "https://download.pytorch.org/whl/cu1" in advice


@pytest.mark.parametrize(
    ("build", "found", "words"),
    [
        (None, driver((13, 0), HOPPER), ["torch is not installed"]),
        (CU132, None, ["no NVIDIA driver", "--gpus all"]),
        (CU132, driver((13, 0)), ["0 cards", "nvidia-smi"]),
        (CU132, driver((12, 4), ADA), ["needs a driver for CUDA 13.2", "up to 12.4", "whl/cu126"]),
        (CU132, driver((13, 2), PASCAL), ["no kernels for card 0", "6.1", "sm_75", "whl/cu126"]),
        (Build("2.15.0+cpu", None), driver((13, 0), HOPPER), ["without CUDA", "9.0", "whl/cu130"]),
    ],
)
def test_why_a_card_cannot_be_used_and_what_to_do(build, found, words):
    text = str(obstacle_of(build, found))
    assert all(word in text for word in words), text


def test_no_reason_is_found_where_torch_can_use_the_card():
    assert obstacle_of(CU132, driver((13, 0), HOPPER)) is None
    # The same major version of CUDA is enough; a driver with the compatibility package has shown that it starts.
    assert obstacle_of(CU132, driver((12, 4), HOPPER), available=True) is None
    assert obstacle_of(CU132, driver((13, 2), PASCAL), available=True) is not None


def fake_driver(folder: Path) -> Path:
    """A libcuda of two cards, compiled."""
    source = folder / "cuda.c"
    source.write_text(
        "#include <string.h>\n"
        "int cuDriverGetVersion(int *v) { *v = 12040; return 0; }\n"
        "int cuInit(unsigned f) { return 0; }\n"
        "int cuDeviceGetCount(int *n) { *n = 2; return 0; }\n"
        "int cuDeviceGetAttribute(int *v, int a, int d)\n"
        "{ *v = a == 75 ? 8 + d : a == 76 ? 6 - 6 * d : -1; return 0; }\n"
        'int cuDeviceGetName(char *s, int n, int d) { strncpy(s, d ? "fake H" : "fake A", n); return 0; }\n'
    )
    library = folder / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


@pytest.mark.skipif(sys.platform != "linux", reason="builds a shared library")
def test_a_driver_is_asked_for_its_version_and_cards(tmp_path):
    try:
        library = fake_driver(tmp_path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler: {error}")
    expected = Driver((12, 4), (Card("fake A", (8, 6)), Card("fake H", (9, 0))))
    assert cards.nvidia_driver(str(library)) == expected


def test_without_a_driver_there_is_none(tmp_path):
    assert cards.nvidia_driver(str(tmp_path / "libcuda.so.1")) is None


def test_cards_on_the_bus_are_counted_without_a_driver(tmp_path):
    for name, vendor, kind in (
        ("a", "0x10de", "0x030200"),
        ("b", "0x10de", "0x040300"),
        ("c", "0x8086", "0x030000"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert cards.cards_on_the_bus(tmp_path) == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLIMDIFF_GPUS": "0"}, None),
        ({"SLIMDIFF_GPUS": "2"}, "--resources gpu=2"),
        ({"SLURM_JOB_GPUS": "3"}, "SLURM_JOB_GPUS=3"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-ab"}, "CUDA_VISIBLE_DEVICES=GPU-ab"),
    ],
)
def test_an_allocation_is_found_in_the_environment(environment, expected):
    assert cards.allocation(environment) == expected


JOB = """
import sys
from slimdiff import cards
print(",".join(map(str, cards.claim(int(sys.argv[1]), int(sys.argv[2])))), flush=True)
assert cards.claim(int(sys.argv[1]), int(sys.argv[2]))
sys.stdin.read()
"""


class Jobs:
    """Processes that hold cards until they are ended."""

    def __init__(self, folder: Path):
        self.environment = {**os.environ, "TMPDIR": str(folder)}
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)
        self.running: list[subprocess.Popen] = []

    def start(self, number: int, count: int, **environment: str) -> str:
        job = subprocess.Popen(
            [sys.executable, "-c", JOB, str(number), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | environment,
        )
        self.running.append(job)
        return job.stdout.readline().strip()

    def end(self, index: int) -> str:
        """What the job printed on standard error."""
        return self.running[index].communicate("")[1]


@pytest.fixture
def jobs(tmp_path):
    pytest.importorskip("fcntl")
    found = Jobs(tmp_path)
    yield found
    for job in found.running:
        if job.poll() is None:
            job.communicate("")


def test_every_job_has_a_card_of_its_own_and_leaves_it_at_its_end(jobs):
    assert [jobs.start(1, 3) for _ in range(3)] == ["0", "1", "2"]
    assert jobs.end(1) == ""
    assert jobs.start(1, 3) == "1"


def test_a_killed_job_leaves_its_card(jobs):
    assert [jobs.start(1, 2), jobs.start(1, 2)] == ["0", "1"]
    jobs.running[0].kill()
    jobs.running[0].wait()
    assert jobs.start(1, 2) == "0"


def test_jobs_of_several_cards_share_none(jobs):
    assert [jobs.start(2, 4), jobs.start(2, 4)] == ["0,1", "2,3"]


def test_more_jobs_than_cards_are_spread_evenly_and_a_line_says_so(jobs):
    assert [jobs.start(1, 2) for _ in range(4)] == ["0", "1", "0", "1"]
    assert "card 1 is shared with 1 other jobs" in jobs.end(3)
    assert "--resources gpu=2" in jobs.end(2)


def test_the_lock_is_that_of_the_card_and_not_of_its_place_in_a_list(jobs):
    assert jobs.start(1, 2, CUDA_VISIBLE_DEVICES="4,5") == "0"
    # Card 4 is the second one here, and taken.
    assert jobs.start(1, 2, CUDA_VISIBLE_DEVICES="6,4") == "0"
    assert jobs.start(1, 2, CUDA_VISIBLE_DEVICES="4,7") == "1"


def test_without_a_place_for_locks_the_first_card_is_taken(jobs, tmp_path):
    (tmp_path / f"slimdiff-cards-{os.getuid()}").write_text("in the way")
    assert jobs.start(1, 2) == "0"
    assert "no lock for a card" in jobs.end(0)
