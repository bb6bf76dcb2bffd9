"""One good study, made once; every test spoils a copy of its own."""

import shutil
from pathlib import Path

import pytest
from bad_input.cases import Workplace, write_good_study


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_good_study(folder)
    return folder


@pytest.fixture
def place(good, tmp_path) -> Workplace:
    """A copy of the good study."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    return Workplace(tmp_path)
