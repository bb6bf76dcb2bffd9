import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from slimdiff.files import sha256
from slimdiff.report import provenance


@pytest.fixture(scope="module")
def facts(finished):
    provenance.write_provenance(finished, ["base", "other"], 2)
    return json.loads(finished.paths.provenance.read_text())


def test_hashes_are_those_of_the_files(finished, facts):
    person = next(iter(finished.paths.store.parent.glob("volumes/*.json")))
    record = json.loads(person.read_text())
    assert facts["source_volumes"][record["participant"]] == record["source_sha256"]
    assert facts["store"]["sha256"]["images"] == sha256(finished.paths.store / "images.npy")
    assert len(facts["checkpoints"]) == 4
    first = facts["checkpoints"][0]
    assert first["sha256"] == sha256(finished.paths.model("base", 0) / "model.safetensors")
    assert first["step"] == 20


def test_a_checkpoint_of_another_store_is_marked(finished):
    entry = provenance.checkpoint(finished.paths, "base", 0, "another-hash")
    assert not entry["trained_on_this_store"]


def test_checkpoints_of_this_store_are_marked(facts):
    assert all(entry["trained_on_this_store"] for entry in facts["checkpoints"])


def test_no_names_of_users_hosts_or_folders(finished, facts):
    page = (finished.paths.tables / "provenance.html").read_text()
    for text in (json.dumps(facts), page):
        assert str(Path.home()) not in text
        assert str(finished.paths.root.parent) not in text
        assert finished.data.root not in text
        assert "hostname" not in text
    assert facts["config"]["data"]["root"] == f".../{Path(finished.data.root).name}"


def test_configuration_and_variants_are_resolved(finished, facts):
    assert facts["config"]["training"]["steps"] == finished.training.steps
    assert set(facts["variants"]) == {"base", "other"}
    assert facts["variants"]["base"]["generation"]["evaluations"] == finished.generation.evaluations


def test_software_machine_extractors_and_jobs(facts):
    from slimdiff.weights import fingerprint

    assert facts["software"]["python"] == platform.python_version()
    assert facts["software"]["packages"]["torch"]
    assert facts["machine"]["cpus"] <= os.cpu_count()
    assert facts["machine"]["torch_threads"] >= 1
    assert facts["extractors"] == {"alexnet": fingerprint("alexnet")}
    assert facts["jobs"] == {
        "train": {"jobs": 2, "seconds": 122.0, "cpu_seconds": 101.0, "peak_memory_mb": 901.0}
    }


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*arguments):
        options = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", "-C", str(tmp_path), *options, *arguments], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init")
    return package, git


def test_git_state_gives_commit_and_changes(checkout):
    package, git = checkout
    assert provenance.git_state(package) is None
    git("add", ".")
    git("commit", "-m", "first")
    state = provenance.git_state(package)
    assert len(state["commit"]) == 40
    assert not state["changed"]
    (package / "__init__.py").write_text("changed = True")
    assert provenance.git_state(package)["changed"]


def test_a_package_inside_the_checkout_of_another_project_has_no_commit(checkout):
    package, git = checkout
    git("commit", "--allow-empty", "-m", "another project's")
    assert provenance.git_state(package) is None
