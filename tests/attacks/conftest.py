import json
from pathlib import Path

import pytest
from helpers.hostile_study import run, write_hostile_study

SHEET = "tables/quality.html"


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """Folder of the hostile study, run as far as the sheet of all participants."""
    folder = tmp_path_factory.mktemp("hostile")
    values = json.loads(write_hostile_study(folder).read_text())
    done = run(folder, f"{values['results_dir']}/tiny/{SHEET}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
