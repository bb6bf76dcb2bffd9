"""Another workflow takes this one as a module (docs/guide/module.md), with or without a prefix."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.workflow_runs import job_counts, write_study

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "module.md"


def snakefile_of_the_page(prefix: bool) -> str:
    """The block of the page, with this checkout as the place of the workflow."""
    (block,) = re.findall(r"```snakemake\n(.+?)```", PAGE.read_text(), re.DOTALL)
    found, count = re.subn(r'"/path/to/slimdiff/', f'"{ROOT}/', block)
    assert count == 1
    return found if prefix else found.replace(" as slimdiff_*", "")


def plan(folder: Path, *options: str) -> dict[str, int]:
    """Jobs of a dry run by rule."""
    study = yaml.safe_load(write_study(folder).read_text())
    (folder / "my_study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return job_counts(done.stdout + done.stderr)


@pytest.fixture(scope="module")
def of_slimdiff(tmp_path_factory) -> dict[str, int]:
    """Jobs of the same study by slimdiff's own Snakefile."""
    options = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", "my_study.yaml")
    return plan(tmp_path_factory.mktemp("own"), *options)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_dry_run_plans_the_whole_study(tmp_path, of_slimdiff, prefix):
    (tmp_path / "Snakefile").write_text(snakefile_of_the_page(prefix))
    before = "slimdiff_" if prefix else ""
    found = plan(tmp_path)
    wanted = dict(of_slimdiff)
    wanted["whole_study"] = wanted.pop("all")
    assert found == {before + rule: count for rule, count in wanted.items()}
