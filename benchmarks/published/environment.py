"""A virtual environment for the reference (the published code, PyPI slim-diff 1.0.0) with this interpreter's torch.

python benchmarks/published/environment.py creates it and prints its interpreter.
"""

import argparse
import hashlib
import os
import site
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

WHEEL = "slim-diff==1.0.0 --hash=sha256:de6dfe1ab3d6056ca0d35daa82d787a8612e1b7344470f33728cf61bbc5704ad"
# Imported by the two modules that are run; some may be installed already.
IMPORTED = [
    "pytorch-lightning>=2.6,<3",
    "monai==1.6.0",
    "omegaconf>=2.3",
    "einops",
    "matplotlib",
    "nibabel",
    "pandas",
    "scikit-image",
    "scipy",
    "torchmetrics",
    "tqdm",
]
# Installed without dependencies: torchvision is not needed here.
ALONE = ["lpips"]
CHECK = "import src.diffusion.training.lit_modules, src.diffusion.training.callbacks.epoch_callbacks"


class NoReference(Exception):
    """The reference cannot be installed; the message gives the cause."""


def reference_python(wheels: Path | None = None) -> str:
    """Path of an interpreter that can import the reference; creates its environment if necessary.

    Args:
        wheels: folder of wheels to install from; None: the package index.
    """
    here = [path for path in (*site.getsitepackages(), sysconfig.get_path("purelib")) if Path(path).is_dir()]
    key = hashlib.sha256("\n".join([sys.version, version("torch"), WHEEL, *here]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "slimdiff" / f"reference-venv-{key}"
    python = folder / "bin" / "python"
    if (folder / "complete").is_file():
        return str(python)
    print(f"the reference's environment: {folder}", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)])
    shared = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(shared, "shared.pth").write_text("\n".join(dict.fromkeys(here)) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-warn-conflicts"]
    if wheels:
        pip += ["--no-index", "--find-links", str(wheels)]
    # Both sides use the same torch; no other version is downloaded.
    pins = folder / "pins.txt"
    pins.write_text(f"torch=={version('torch')}\n")
    _run([*pip, "--constraint", str(pins), *IMPORTED])
    _run([*pip, "--no-deps", *ALONE])
    # The hash is required, because this code will be run.
    wheel = folder / "wheel.txt"
    wheel.write_text(WHEEL + "\n")
    _run([*pip, "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(wheel)])
    _run([str(python), "-W", "ignore", "-c", CHECK])
    (folder / "complete").touch()
    return str(python)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoReference(f"{' '.join(command[:6])} ...: {(done.stderr or done.stdout).strip()[-400:]}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmarks' options about the reference."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--reference-python", metavar="PATH", help="interpreter that can import the reference")
    which.add_argument("--no-reference", action="store_true", help="measure only slimdiff")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, if there is no package index")


def chosen_python(options: argparse.Namespace) -> str | None:
    """The reference's interpreter; None with --no-reference. Exits with a message if it cannot be installed."""
    if options.no_reference:
        return None
    if options.reference_python:
        return options.reference_python
    try:
        return reference_python(options.wheels)
    except (NoReference, OSError) as error:
        sys.exit(f"the reference cannot be installed: {error}\nuse --no-reference to measure only slimdiff")


def main() -> None:
    """Create the environment, or print the requirement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, help="folder of wheels, if there is no package index")
    parser.add_argument("--requirement", action="store_true", help="print the wheel and its hash instead")
    options = parser.parse_args()
    try:
        print(WHEEL if options.requirement else reference_python(options.wheels))
    except NoReference as error:
        sys.exit(f"the reference cannot be installed: {error}")


if __name__ == "__main__":
    main()
