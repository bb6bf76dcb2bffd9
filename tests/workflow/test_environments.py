"""Conda environments, images and constraints have the same versions."""

import re

import pytest
import yaml
from helpers.workflow_runs import ROOT, snakemake, write_study
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVS = ROOT / "envs"
OF_CONDA = {"pytorch-cpu": "torch", "pytorch-gpu": "torch"}


def pins() -> dict[str, str]:
    lines = (ENVS / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): str(one.specifier) for one in requirements}


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_conda_environment_has_the_pins_of_the_constraints(name):
    content = yaml.safe_load((ENVS / f"{name}.yaml").read_text())
    assert content["channels"] == ["conda-forge", "nodefaults"]
    *of_conda, of_pip = content["dependencies"]
    found = {}
    for line in of_conda:
        package, _, version = line.partition("=")
        if version and package != "python":
            found[canonicalize_name(OF_CONDA.get(package, package))] = f"=={version}"
    for line in of_pip["pip"]:
        requirement = Requirement(line)
        found[canonicalize_name(requirement.name)] = str(requirement.specifier)
    known = pins()
    assert {package: known.get(package) for package in found} == found
    assert {"torch", "torchvision"} <= set(found)


def test_a_conda_environment_has_every_requirement_of_the_jobs():
    """Snakemake itself runs outside of it."""
    text = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]\n")[0]
    required = {canonicalize_name(Requirement(found).name) for found in re.findall(r'"([^"]+)"', text)}
    for name in ("cpu", "cuda"):
        *of_conda, of_pip = yaml.safe_load((ENVS / f"{name}.yaml").read_text())["dependencies"]
        packages = {OF_CONDA.get(line.partition("=")[0], line.partition("=")[0]) for line in of_conda}
        packages |= {Requirement(line).name for line in of_pip["pip"]}
        assert required - {canonicalize_name(one) for one in packages} == {"snakemake", "pygments"}


def commands(text: str) -> list[str]:
    """Shell commands of a recipe, one a line, without the words that join them."""
    joined = text.replace("\\\n", " ")
    return [
        " ".join(part.split()) for line in joined.splitlines() for part in line.split("&&") if part.strip()
    ]


def test_both_images_are_made_by_the_same_commands():
    container = (ENVS / "Containerfile").read_text().replace("\\\n", " ")
    definition = (ENVS / "slimdiff.def").read_text()
    runs = "\n".join(re.findall(r"^RUN (.+)$", container, re.MULTILINE))
    post = definition.split("%post\n")[1].split("%environment")[0]
    assert commands(runs) == commands(post)
    assert re.search(r"^FROM docker.io/library/(\S+)$", container, re.MULTILINE)[1] == "debian:bookworm-slim"
    assert re.search(r"^From: (\S+)$", definition, re.MULTILINE)[1] == "debian:bookworm-slim"
    path = re.search(r"^ENV (PATH=\S+)$", container, re.MULTILINE)[1]
    assert f"export {path}\n" in definition


def test_jobs_in_an_image_need_one(tmp_path, monkeypatch):
    monkeypatch.delenv("SLIMDIFF_CONTAINER", raising=False)
    plan = ("--dry-run", "--sdm", "apptainer", "--configfile", str(write_study(tmp_path)))
    done = snakemake(*plan, folder=tmp_path)
    assert done.returncode != 0
    assert "expected an image in the variable SLIMDIFF_CONTAINER, found none" in done.stdout + done.stderr
    done = snakemake(*plan, folder=tmp_path, SLIMDIFF_CONTAINER=str(tmp_path / "slimdiff.sif"))
    # Where Apptainer is not installed, the engine says so after it has read the rules.
    said = done.stdout + done.stderr
    assert done.returncode == 0 or "apptainer or singularity command has to be available" in said
