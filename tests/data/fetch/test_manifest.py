"""The list of ds004199's files: what it has, and that it is what the dataset says."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from slimdiff.data.fetch.download import FOLDER, load_manifest, read_file_manifest
from slimdiff.data.participants import DataError

ROOT = Path(__file__).parents[3]
DIGEST = "0" * 64


def kind(path) -> str:
    if path.name.endswith("_roi.nii.gz"):
        return "roi"
    return path.name.split("_")[-1] if "_" in path.name and len(path.parts) > 1 else "description"


def test_every_kind_of_file_is_there_for_every_subject():
    files = read_file_manifest("ds004199").files
    assert Counter(kind(file.path) for file in files) == {
        "FLAIR.nii.gz": 170,
        "FLAIR.json": 170,
        "T1w.nii.gz": 170,
        "roi": 85,
        "description": 3,
    }
    for ending in ("FLAIR.nii.gz", "FLAIR.json", "T1w.nii.gz"):
        subjects = {file.path.parts[0] for file in files if kind(file.path) == ending}
        assert subjects == {f"sub-{number:05d}" for number in range(1, 171)}
    images = {file.path for file in files if kind(file.path) == "FLAIR.nii.gz"}
    sidecars = {file.path for file in files if kind(file.path) == "FLAIR.json"}
    assert {path.with_name(path.name.replace(".nii.gz", ".json")) for path in images} == sidecars


def test_a_study_downloads_the_t1w_images_only_if_it_uses_them():
    manifest = read_file_manifest("ds004199")
    assert len(manifest.files_for("T1w")) == 598
    assert len(manifest.files_for()) == len(manifest.files_for("FLAIR")) == 428
    left_out = set(manifest.files) - set(manifest.files_for())
    assert {kind(file.path) for file in left_out} == {"T1w.nii.gz"}
    assert sum(file.size for file in left_out) == 2_903_348_393


def test_ds004199_every_row_is_what_the_dataset_says(shared_data):
    source = shared_data / "ds004199"
    found = {str(file.path): file for file in read_file_manifest("ds004199").files}
    with (source / "files.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            file = found.pop(row["path"])
            assert (file.size, file.sha256) == (int(row["size"]), row["sha256"])
            sidecar = source / "sidecars" / file.path.name.replace(".nii.gz", ".json")
            facts = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
            assert file.acquisition_type == facts.get("MRAcquisitionType", "n/a")
    for path, file in found.items():
        name = file.path.name
        content = (source / name if "/" not in path else source / "sidecars" / name).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest()), path
        assert file.acquisition_type == "n/a"
    described = json.loads((source / "dataset_description.json").read_text(encoding="utf-8"))
    assert described["DatasetDOI"] == f"doi:{read_file_manifest('ds004199').doi}"


def test_seven_patients_have_a_two_dimensional_image():
    flat = [file.path for file in read_file_manifest("ds004199").files if file.acquisition_type == "2D"]
    with_mask = {
        file.path.parts[0] for file in read_file_manifest("ds004199").files if kind(file.path) == "roi"
    }
    assert len(flat) == 7
    assert {path.parts[0] for path in flat} <= with_mask


def write(path, *rows):
    lines = ["path\tsize\tsha256\tacquisition_type", *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_row_is_a_file_below_the_dataset_s_folder_and_no_path_is_duplicate():
    files = read_file_manifest("ds004199").files
    for file in files:
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)*", str(file.path)) and ".." not in file.path.parts
        assert file.size > 0 and re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.acquisition_type in ("2D", "3D", "n/a")
    # Some file systems take A and a for one name.
    assert len({str(file.path).lower() for file in files}) == len(files)


def test_the_manifest_s_hash_is_of_its_content(tmp_path):
    rows = [("a", "1", DIGEST, "n/a"), ("b", "2", DIGEST, "2D")]
    facts = ("made", "1", "10.0/0", "https://example.org")
    first = load_manifest(write(tmp_path / "first.tsv", *rows), *facts)
    written = (tmp_path / "first.tsv").read_text().splitlines(keepends=True)[1:]
    assert first.sha256 == hashlib.sha256("".join(written).encode()).hexdigest()
    rows[1] = ("b", "3", DIGEST, "2D")
    assert load_manifest(write(tmp_path / "second.tsv", *rows), *facts).sha256 != first.sha256


def test_a_dataset_without_a_manifest_is_refused():
    with pytest.raises(DataError, match="expected ds004199, found 'ds000001'"):
        read_file_manifest("ds000001")


def test_the_manifest_is_part_of_the_built_package(tmp_path):
    pytest.importorskip("setuptools")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "slimdiff" / "data", tmp_path / "slimdiff" / "data")
    shutil.copy(ROOT / "slimdiff" / "__init__.py", tmp_path / "slimdiff")
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "build", "--build-lib", "built"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    built = tmp_path / "built" / "slimdiff" / "data" / "fetch" / "manifests" / "ds004199.tsv"
    assert built.read_bytes() == (FOLDER / "ds004199.tsv").read_bytes()
