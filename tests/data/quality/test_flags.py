"""The list of flags is whole: whatever the code raises stands there, and what can be accepted is a doubt."""

import ast
from pathlib import Path
from typing import get_args

import slimdiff
from slimdiff.config.quality import Doubt
from slimdiff.data.quality.flags import ACCEPTABLE, DOUBTS, FAULTS, MEANINGS


def raised() -> set[str]:
    """First arguments of every VolumeError, FileFault and Flag in the package, where they are written out."""
    found = set()
    for path in Path(slimdiff.__file__).parent.joinpath("data").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
            if named and node.func.id in ("VolumeError", "FileFault", "Flag"):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(first.value)
    return found


def test_every_flag_that_is_raised_has_a_meaning():
    assert len(raised()) > 12
    assert raised() <= MEANINGS.keys()


def test_what_the_configuration_can_accept_is_a_doubt():
    assert frozenset(get_args(Doubt)) == ACCEPTABLE <= DOUBTS.keys()
    assert not DOUBTS.keys() & FAULTS.keys()


def test_a_meaning_is_one_sentence():
    for name, meaning in MEANINGS.items():
        assert name.replace("_", "").replace("3d", "").isalpha() and name == name.lower()
        assert meaning[0].isupper() and meaning.endswith(".") and ". " not in meaning, name
