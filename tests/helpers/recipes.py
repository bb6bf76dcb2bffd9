"""Follow a page of docs/contributing in a copy of the repository, word by word."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "contributing"
BLOCK = re.compile(r"(?m)^(?P<say>[^\n]+)\n\n```\w+\n(?P<text>.*?)^```$", re.DOTALL)
CREATE = re.compile(r"Create `(?P<path>[^`]+)`:")
CHANGE = re.compile(
    r"In `(?P<path>[^`]+)`, (?P<how>above|below|replace) (?P<tick>``?) ?(?P<line>.+?) ?(?P=tick)(?: by)?:"
)
INSTALL = "pip install --no-deps -e ."
NOT_COPIED = (
    "results",
    "logs",
    "data",
    "site",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".venv",
)


@dataclass(frozen=True)
class Step:
    """One block of code with the sentence above it."""

    say: str
    text: str


def steps(page: str) -> list[Step]:
    """The blocks of a page with the sentences that say what to do with them; ValueError if one has none."""
    text = (PAGES / page).read_text(encoding="utf-8")
    found = [Step(match["say"], match["text"]) for match in BLOCK.finditer(text)]
    if len(found) != text.count("\n```") / 2:
        raise ValueError(f"{page}: a block of code has no sentence above it")
    for step in found:
        if not (step.say == "Run:" or CREATE.fullmatch(step.say) or CHANGE.fullmatch(step.say)):
            raise ValueError(f"{page}: no step: {step.say}")
    return found


def copied(folder: Path) -> Path:
    """A copy of the repository."""
    ignored = shutil.ignore_patterns(".git", ".snakemake", *NOT_COPIED)
    shutil.copytree(
        ROOT, folder, ignore=lambda path, names: ignored(path, names) if _is_root(path) else _caches(names)
    )
    return folder


def _is_root(path: str) -> bool:
    return Path(path) == ROOT


def _caches(names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__"}


def write(step: Step, copy: Path) -> None:
    """Create or change the file that a step names. AssertionError if it does not fit the repository."""
    created = CREATE.fullmatch(step.say)
    if created:
        path = copy / created["path"]
        assert not path.exists(), f"{path} exists"
        path.write_text(step.text, encoding="utf-8")
        return
    change = CHANGE.fullmatch(step.say)
    path, line = copy / change["path"], change["line"]
    text = path.read_text(encoding="utf-8")
    assert text.count(line) == 1, f"{step.say} found {text.count(line)} times"
    if change["how"] == "replace":
        text = text.replace(line, step.text.rstrip("\n"))
    else:
        place = text.index(line)
        begin = text.rfind("\n", 0, place) + 1
        at = begin if change["how"] == "above" else text.index("\n", place) + 1
        text = text[:at] + step.text + text[at:]
    path.write_text(text, encoding="utf-8")


def run(step: Step, copy: Path) -> str:
    """Run the commands of a step in the copy; returns what they print."""
    printed = []
    for command in step.text.splitlines():
        if command == INSTALL:
            launchers(copy)
            continue
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        folders = (copy / ".bin", Path(sys.executable).parent)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=copy,
            capture_output=True,
            text=True,
            env=kept | {"PATH": os.pathsep.join([*map(str, folders), kept["PATH"]]), "PYTHONPATH": str(copy)},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        printed.append(done.stdout + done.stderr)
    return "\n".join(printed)


def launchers(copy: Path) -> None:
    """The commands of the copy, as `pip install -e` writes them; the test's own environment stays as it is."""
    scripts = tomllib.loads((copy / "pyproject.toml").read_text())["project"]["scripts"]
    (copy / ".bin").mkdir(exist_ok=True)
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        path = copy / ".bin" / name
        path.write_text(
            f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        path.chmod(0o755)
