"""A checkout that is read-only, or shared by several people: runs with --directory leave it as it is."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.workflow_runs import ROOT, write_study

from slimdiff.report.provenance import git_state

PARTS = ("Snakefile", "config", "envs", "profiles", "slimdiff", "workflow", "pyproject.toml")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of this checkout in which no file or folder may be written."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    yield copy
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def state_of(folder: Path) -> dict[str, tuple]:
    """Every file and folder: mode, time of change and content. The user root may write in spite of the modes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found[str(path.relative_to(folder))] = (facts.st_mode, facts.st_mtime_ns, content)
    return found


def run(checkout: Path, elsewhere: Path, *arguments: str) -> str:
    """Output of the checkout's own Snakefile and package, run in another folder."""
    elsewhere.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        # Python writes no byte code into a folder that is read-only; for root no folder is.
        "PYTHONPYCACHEPREFIX": str(elsewhere / "byte-code"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(checkout / "Snakefile")]
    command += ["--directory", str(elsewhere), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_and_its_report_leave_a_read_only_checkout_as_it_is(checkout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = write_study(elsewhere)
    before = state_of(checkout)
    target = "results/tiny/tables/quality.html"
    run(checkout, elsewhere, target, "--cores", "1", "--configfile", str(config))
    run(checkout, elsewhere, target, "--configfile", str(config), "--report", "report.html")
    assert state_of(checkout) == before
    assert (elsewhere / target).is_file() and (elsewhere / "report.html").is_file()
    assert (elsewhere / "results/tiny/participants.tsv").is_file()


def test_the_demo_of_a_read_only_checkout_can_be_planned_in_another_folder(checkout, tmp_path):
    before = state_of(checkout)
    said = run(checkout, tmp_path / "elsewhere", "--dry-run", "--cores", "1")
    assert "phantom: " in said
    assert state_of(checkout) == before
    assert not (tmp_path / "elsewhere" / "results").exists()


def test_asking_for_the_commit_leaves_the_index_of_a_shared_checkout_as_it_is(tmp_path):
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path / "checkout"), *command], check=True)
    # A copied or newly checked out file has another time than the index remembers; git would write that down.
    os.utime(package / "__init__.py", (0, 0))
    before = state_of(tmp_path / "checkout" / ".git")
    state = git_state(package)
    assert state["changed"] is False and len(state["commit"]) == 40
    assert state_of(tmp_path / "checkout" / ".git") == before
