"""docs/reference/files.md names every stage, the files of a study, and the columns of its tables."""

import re
from pathlib import Path

from slimdiff import stages
from slimdiff.config import StudyPaths
from slimdiff.data.store import COLUMNS as SLICES
from slimdiff.data.store import FILES
from slimdiff.evaluation.registry import COLUMNS as METRICS
from slimdiff.generation.samples import COLUMNS as SAMPLES

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "files.md").read_text(encoding="utf-8")


def test_every_stage_has_a_row():
    cells = " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| "))
    assert not [name for name in stages.names() if f"`{name}`" not in cells]


def test_every_path_of_a_study_is_named():
    root = Path("R")
    names = [name for name, value in vars(StudyPaths).items() if isinstance(value, property)]
    paths = [getattr(StudyPaths(root), name).relative_to(root).as_posix() for name in names]
    assert len(paths) > 10
    # A folder has a slash behind it.
    assert not [path for path in paths if not re.search(rf"`{re.escape(path)}[/`]", PAGE)]


def test_the_columns_are_those_of_the_code():
    for columns in (SLICES, SAMPLES, METRICS):
        assert not [column for column in columns if f"`{column}`" not in PAGE]
    assert not [name for name in FILES.values() if f"`{name}`" not in PAGE]
