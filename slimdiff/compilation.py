"""What torch.compile needs of the machine, found without importing torch: a compiler, Python.h, cache folders."""

import getpass
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path


def compile_obstacle(device_type: str) -> str | None:
    """Why torch.compile cannot build code for this type of device on this machine; None where nothing is missing.

    A GPU's kernels are started by small C programs, a CPU's kernels are C++; both include Python.h and are loaded as
    libraries from a cache folder.
    """
    if sys.platform == "win32":
        # Other compilers and folders; torch's own message applies.
        return None
    if device_type == "cuda":
        variable, names = "CC", ("gcc", "clang")
    else:
        variable, names = "CXX", ("clang++",) if sys.platform == "darwin" else ("g++",)
    compiler = os.environ.get(variable)
    if compiler and not shutil.which(compiler.split()[0]):
        return f"{variable}={compiler}: no such program"
    if not compiler and not any(map(shutil.which, names)):
        return f"no compiler: expected {' or '.join(names)} on PATH, or ${variable} (Debian: apt install gcc g++)"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        return f"no Python.h: expected {header} (Debian: apt install python3-dev)"
    for name, folder in cache_folders().items():
        if problem := unusable_folder(folder):
            return f"its cache {folder} is {problem}; set {name} to another folder"
    return None


def cache_folders() -> dict[str, Path]:
    """Environment variable: the folder in which torch.compile keeps compiled code."""
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):
        user = f"uid_{os.getuid()}"
    default = Path(tempfile.gettempdir()) / f"torchinductor_{re.sub(r'[^A-Za-z0-9._-]', '_', user)}"
    folders = {"TORCHINDUCTOR_CACHE_DIR": Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default)}
    if os.environ.get("TRITON_CACHE_DIR"):
        folders["TRITON_CACHE_DIR"] = Path(os.environ["TRITON_CACHE_DIR"])
    return folders


def unusable_folder(folder: Path) -> str | None:
    """Whether code cannot be written into a folder ("not writable") or not be loaded from it ("mounted noexec")."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"not writable ({error.strerror or error})"
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        return "mounted noexec"
    return None
