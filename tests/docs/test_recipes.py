"""docs/contributing: a new source and a new stage, followed word by word.

A new metric: tests/test_price_of_change.py.
"""

import json
from pathlib import Path

import pytest
from helpers import recipes
from helpers.synthetic import ball, head, save_nifti
from helpers.workflow_runs import write_study

from slimdiff.files import read_table


def follow(page: str, copy: Path) -> str:
    printed = ""
    for step in recipes.steps(page):
        if step.say == "Run:":
            printed += recipes.run(step, copy)
        else:
            recipes.write(step, copy)
    return printed


def test_a_new_stage_runs_by_its_page(tmp_path):
    copy = recipes.copied(tmp_path / "copy")
    write_study(copy).rename(copy / "tiny.yaml")
    recipes.launchers(copy)
    printed = follow("a_stage.md", copy)
    assert "Count the participants of each group." in printed
    assert "census: 4 participants in 2 groups" in printed
    rows = {row["group"]: int(row["participants"]) for row in read_table(copy / "results/tiny/census.tsv")}
    assert rows == {"control": 1, "fcd": 3}


def test_a_new_source_is_read_by_its_page(tmp_path):
    copy = recipes.copied(tmp_path / "copy")
    recipes.launchers(copy)
    lesion = ball((12, 14, 16), 3.5)
    for number, name in enumerate(("anna", "ben", "cleo")):
        save_nifti(copy / f"cohort/images/{name}.nii.gz", head(number) + 40 * lesion)
        if name != "cleo":
            save_nifti(copy / f"cohort/masks/{name}.nii.gz", lesion.astype("uint8"))
    study = {
        "study": "tiny",
        "data": {"source": "twofolders", "root": "cohort"},
        "quality": {"max_spacing_mm": 7},
    }
    (copy / "tiny.yaml").write_text(json.dumps(study))
    follow("a_source.md", copy)
    rows = read_table(copy / "results/tiny/participants.tsv")
    assert [(row["participant_id"], row["group"]) for row in rows] == [
        ("anna", "patient"),
        ("ben", "patient"),
        ("cleo", "control"),
    ]
    assert "twofolders" in (copy / "config/README.md").read_text()


@pytest.mark.parametrize("page", sorted(path.name for path in recipes.PAGES.glob("*.md")))
def test_every_block_of_a_page_is_a_step(page):
    assert len(recipes.steps(page)) >= 6


def test_a_step_that_does_not_fit_is_found(tmp_path):
    (tmp_path / "file.py").write_text("one = 1\n")
    with pytest.raises(AssertionError, match="0 times"):
        recipes.write(recipes.Step("In `file.py`, below `two = 2`:", "three = 3\n"), tmp_path)
    recipes.write(recipes.Step("In `file.py`, below `one`:", "two = 2\n"), tmp_path)
    assert (tmp_path / "file.py").read_text() == "one = 1\ntwo = 2\n"
