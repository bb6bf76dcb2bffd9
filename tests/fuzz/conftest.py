"""The good files, made once, and the table of all cases at the end of a run."""

from pathlib import Path

import pytest
from fuzz.cases import Tally
from fuzz.targets import write_targets

TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    return TALLY


@pytest.fixture(scope="session")
def place(tmp_path_factory, trained) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_targets(folder, trained)
    return folder


def pytest_terminal_summary(terminalreporter):
    if TALLY.kinds:
        terminalreporter.write_line(TALLY.table())
