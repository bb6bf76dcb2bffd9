"""The wheel has the whole package, and its commands answer without the heavy packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from slimdiff import __version__, stages

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "skimage",
    "SimpleITK",
    "matplotlib",
    "snakemake",
    "nibabel",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git would take, with the setuptools of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        [
            "git",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "slimdiff",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout: which files belong to the package is not known")
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    done = subprocess.run([*command, "-w", str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's files alone, in a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "-q",
        "--target",
        str(target),
    ]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "slimdiff").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == here
    assert wheel.name == f"slimdiff-{__version__}-py3-none-any.whl"


def test_the_installed_package_draws_and_has_its_commands(installed, trained, tmp_path):
    script = """
import json, sys
import slimdiff
from slimdiff import SliceStore, load_model, sample
images, masks = sample(sys.argv[1], 1, 0, 1, evaluations=2, device="cpu")
print(json.dumps([slimdiff.__file__, images.shape, str(images.dtype), str(masks.dtype)]))
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    run = [sys.executable, "-c", script, str(trained)]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place, shape, image, mask = json.loads(done.stdout)
    assert Path(place).is_relative_to(installed) and shape[0] == 1 and (image, mask) == ("float32", "bool")
    commands = {path.name for path in (installed / "bin").iterdir()}
    assert {"slimdiff", *(f"slimdiff-{stage}" for stage in stages.names())} == commands


def test_help_of_every_command_imports_nothing_heavy():
    """One process for all of them: what none of them imports, no single one does."""
    script = """
import contextlib, io, sys
from slimdiff import cli, stages
for stage in stages.names():
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        cli.main([stage, "--help"])
    assert shown.getvalue().startswith("usage: slimdiff " + stage), stage
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert {"pydantic", "argparse", "slimdiff"} <= found
    assert not found & set(HEAVY)
