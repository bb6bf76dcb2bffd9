"""What is stated in several places is the same in all of them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from slimdiff import __version__, stages

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.append(ROOT / "config" / "README.md")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def headings() -> list[tuple[str, bool]]:
    """(version, whether it is released) of the change log, the newest first."""
    text = (ROOT / "CHANGELOG.md").read_text()
    found = re.findall(r"(?m)^## ([0-9][^\s(]*)(.*)$", text)
    return [(version, "unreleased" not in rest) for version, rest in found]


def test_the_version_is_in_the_package_only():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert SETTINGS["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "slimdiff.__version__"}
    assert str(Version(__version__)) == __version__


def test_the_newest_heading_of_the_change_log_is_this_version():
    version, released = headings()[0]
    assert version == Version(__version__).base_version
    assert released == (not Version(__version__).is_devrelease)
    ordered = [Version(version) for version, _ in headings()]
    assert ordered == sorted(ordered, reverse=True) and len(set(ordered)) == len(ordered)


def test_the_citation_is_of_the_last_release():
    assert str(CITATION["version"]) == next(version for version, released in headings() if released)


def test_the_licence_is_the_same_everywhere():
    assert (ROOT / "LICENSE").read_text().startswith(f"{PROJECT['license']} License")
    assert CITATION["license"] == PROJECT["license"]


def test_the_python_version_is_the_same_everywhere():
    oldest = SETTINGS["tool"]["ruff"]["target-version"].removeprefix("py3")
    wanted = SpecifierSet(PROJECT["requires-python"])
    assert f"3.{oldest}" in wanted and f"3.{int(oldest) - 1}" not in wanted
    for name in ("cpu", "cuda"):
        lines = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())["dependencies"]
        (python,) = [line.partition("=")[2] for line in lines if str(line).startswith("python=")]
        assert python in wanted, name


def test_every_stage_has_its_entry_point():
    wanted = {f"slimdiff-{name}": f"slimdiff.cli:{name.replace('-', '_')}" for name in stages.names()}
    wanted["slimdiff-import"] += "_"  # `import` is a keyword
    assert PROJECT["scripts"] == {"slimdiff": "slimdiff.cli:main", **wanted}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_extras_of_the_pages_exist(path):
    text = path.read_text()
    for found in re.findall(r"-e\s+[\"']?\.\[([\w,]+)\]", text):
        assert set(found.split(",")) <= set(PROJECT["optional-dependencies"]), found


def test_the_constraints_allow_every_requirement():
    lines = (ROOT / "envs" / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            one = Requirement(line)
            pins[canonicalize_name(one.name)] = str(one.specifier).removeprefix("==")
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]:
        required = Requirement(text)
        if required.name != PROJECT["name"]:
            pin = pins.get(canonicalize_name(required.name))
            assert pin and pin in required.specifier, text


def test_the_package_and_the_citation_have_the_same_name():
    assert CITATION["title"] == PROJECT["name"]
    assert f"# {PROJECT['name']}" in (ROOT / "README.md").read_text()


def test_the_catalog_finds_the_workflow_and_its_usage():
    """The file's form: https://snakemake.github.io/snakemake-workflow-catalog/docs/catalog.html"""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda"}
    assert (ROOT / "workflow" / "Snakefile").is_file() and (ROOT / "config" / "README.md").is_file()
