"""docs/guide/own_data.md: each example folder is made, read with the study beside it, and counted."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.synthetic import ball, head, save_nifti

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.data.participants import read_participants

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "own_data.md").read_text(encoding="utf-8")
SHAPE, AFFINE = (64, 64, 64), np.diag([3.0, 3.0, 3.0, 1.0])
SECTIONS = [part for part in re.split(r"(?m)^### ", PAGE) if "```text\n" in part]


def block(section: str, kind: str) -> str:
    found = re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    assert len(found) == 1, (kind, len(found))
    return found[0]


def test_the_page_has_five_folders():
    assert len(SECTIONS) == 5


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0])
def test_a_folder_of_the_page_is_read_as_the_page_says(section, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables = [line for line in block(section, "text").split() if line.endswith((".tsv", ".csv"))]
    lesion = ball((28, 30, 32), 6, SHAPE)
    for number, path in enumerate(line for line in block(section, "text").split() if line not in tables):
        is_mask = re.search(r"roi|mask|labelsTr|_seg|drawn", path)
        volume = lesion.astype(np.uint8) if is_mask else head(number, SHAPE) + 40 * lesion
        save_nifti(Path(path), volume, AFFINE)
    for table in tables:
        Path(table).write_text(block(section, table[-3:]))
    values = yaml.safe_load(block(section, "yaml"))
    study = Path("my_study.yaml")
    study.write_text(yaml.safe_dump(values))

    assert cli.main(["participants", "--config", str(study)]) == 0, capsys.readouterr().err
    rows = [row for row in read_participants(load_study(study).paths.participants) if row.included]
    patients = sum(row.is_patient for row in rows)
    said = re.search(r"Read as (\d+) patients and (\d+) controls?\.", section)
    assert (patients, len(rows) - patients) == (int(said[1]), int(said[2]))

    # `slimdiff init` finds the same without any settings.
    place = values["data"].get("table") or values["data"]["root"]
    assert cli.main(["init", place, "--out", "found.yaml"]) == 0, capsys.readouterr().err
    found = load_study("found.yaml")
    assert cli.main(["participants", "--config", "found.yaml"]) == 0, capsys.readouterr().err
    rows = [row for row in read_participants(found.paths.participants) if row.included]
    assert (sum(row.is_patient for row in rows), len(rows)) == (int(said[1]), int(said[1]) + int(said[2]))
    assert found.data.source == values["data"]["source"]


def test_every_other_study_of_the_page_is_valid(tmp_path):
    """The lines that are added to a study, in blocks and in the table."""
    rest = PAGE[PAGE.index("## 2. Look") :]
    parts = re.findall(r"```yaml\n(.*?)```", rest, re.DOTALL)
    parts += [cell for cell in re.findall(r"`([a-z]+: \{.*?\})`(?=[ ;,.\n])", rest)]
    assert len(parts) >= 10
    for part in parts:
        study = yaml.safe_load(part) | {"study": "my_study"}
        study.setdefault("data", {}).update(source="bids", root=str(tmp_path))
        path = tmp_path / "my_study.yaml"
        path.write_text(yaml.safe_dump(study))
        load_study(path)
