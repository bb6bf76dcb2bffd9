"""torch.compile on machines that cannot compile: eager code with one line, and the same numbers."""

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from helpers.tiny_training import trainer_in, weights_of

from slimdiff import compilation
from slimdiff.compilation import compile_obstacle
from slimdiff.config.generation import GenerationConfig
from slimdiff.devices import Compiled
from slimdiff.generation.generator import Generator

CPU = torch.device("cpu")
HAS_HEADER = (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compilers and mounts of Linux")


@pytest.fixture
def able(tmp_path, monkeypatch):
    """A machine that can compile: programs named as compilers, Python.h, and a cache folder."""
    for name in ("gcc", "g++"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CC", "CXX", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path / "include")})
    return tmp_path


def test_a_machine_with_everything_has_no_obstacle(able):
    assert compile_obstacle("cpu") is None
    assert compile_obstacle("cuda") is None


@pytest.mark.parametrize(("device", "program", "variable"), [("cpu", "g++", "CXX"), ("cuda", "gcc", "CC")])
def test_a_missing_compiler_is_named(able, monkeypatch, device, program, variable):
    (able / "bin" / program).unlink()
    assert f"no compiler: expected {program}" in compile_obstacle(device)
    monkeypatch.setenv(variable, "nowhere-cc -O2")
    assert compile_obstacle(device) == f"{variable}=nowhere-cc -O2: no such program"
    (able / "bin" / "mine").write_text("")
    (able / "bin" / "mine").chmod(0o755)
    monkeypatch.setenv(variable, "mine")
    assert compile_obstacle(device) is None


def test_a_missing_header_is_named(able):
    (able / "include" / "Python.h").unlink()
    assert f"expected {able}/include/Python.h" in compile_obstacle("cuda")


@pytest.mark.parametrize("variable", ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"])
def test_a_cache_that_cannot_be_written_is_named(able, monkeypatch, variable):
    (able / "file").write_text("in the way")
    monkeypatch.setenv(variable, str(able / "file" / "cache"))
    assert f"its cache {able}/file/cache is not writable" in compile_obstacle("cuda")
    assert f"set {variable} to another folder" in compile_obstacle("cuda")


def test_a_read_only_mount_is_not_writable():
    # In every Linux: sysfs takes no files, even from root.
    assert compilation.unusable_folder(Path("/sys/kernel")).startswith("not writable")


def test_a_mount_without_execution_is_found(tmp_path):
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [
        Path(mount[1]) for mount in mounts if "noexec" in mount[3].split(",") and os.access(mount[1], os.W_OK)
    ]
    places = [place for place in places if place.is_dir() and mount_type(mounts, place) == "tmpfs"]
    if not places:
        own = tmp_path / "noexec"
        own.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "noexec,size=1m", "tmpfs", str(own)], capture_output=True
        )
        if done.returncode:
            pytest.skip("no writable mount with noexec, and no permission to make one")
        try:
            assert compilation.unusable_folder(own) == "mounted noexec"
        finally:
            subprocess.run(["umount", str(own)], check=True)
        return
    assert compilation.unusable_folder(places[0]) == "mounted noexec"


def mount_type(mounts: list[list[str]], place: Path) -> str:
    return next(mount[2] for mount in mounts if mount[1] == str(place))


def test_without_a_compiler_the_training_runs_as_if_it_did_not_ask_for_one(able, monkeypatch, capsys):
    (able / "bin" / "g++").unlink()
    trainer_in(able / "asked", steps=4, compile=True).run()
    lines = [line for line in capsys.readouterr().err.splitlines() if "torch.compile" in line]
    assert len(lines) == 1 and lines[0].startswith(
        "without torch.compile, so slower: no compiler: expected g++"
    )
    trainer_in(able / "plain", steps=4, compile=False).run()
    first, second = (weights_of(able / name)[0] for name in ("asked", "plain"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(not HAS_HEADER, reason="no Python.h")
def test_a_compiler_that_fails_is_found_at_the_first_call(tmp_path, monkeypatch, capsys):
    """All that can be checked before is there, but the compiler does not work."""
    broken = tmp_path / "bin" / "g++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    for name in ("CXX", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    calls = []

    def function(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.sin(x * 3.25) + torch.cos(x) * 1.125

    compiled, x = Compiled(function, CPU), torch.linspace(0, 1, 517)
    assert compiled.active
    assert torch.equal(compiled(x), function(x))
    assert not compiled.active
    assert torch.equal(compiled(x), function(x))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("without torch.compile")]
    assert len(told) == 1


@pytest.mark.skipif(
    shutil.which("g++") is None or not HAS_HEADER, reason="torch.compile requires g++ and Python.h"
)
def test_errors_of_the_function_itself_are_not_hidden():
    def function(x: torch.Tensor) -> torch.Tensor:
        return x @ torch.ones(3)

    with pytest.raises(RuntimeError):
        Compiled(function, CPU)(torch.ones(2))


def test_samples_are_recorded_as_drawn_without_compiled_code(able, trained, capsys):
    """So that `--from-manifest` makes them again in the same way."""
    (able / "bin" / "g++").unlink()
    generator = Generator(trained, GenerationConfig(compile=True, device="cpu", evaluations=2))
    for _ in range(2):
        generator.compile_for(1)
    assert not generator.compiled
    assert capsys.readouterr().err.count("without torch.compile, so slower: no compiler") == 1
