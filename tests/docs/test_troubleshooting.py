"""docs/guide/troubleshooting.md: every message in a heading is one that the code, or Snakemake, can print."""

import ast
import re
from pathlib import Path

import pytest
import snakemake

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?m)^## (.+)\n((?:(?!## ).*\n?)*)", PAGE))
OTHERS = ("Snakemake", "The shell")
"""Sections with messages of other programs."""
GAP = "\0"
"""Stands for the values of a formatted text."""


def messages(section: str) -> list[str]:
    return re.findall(r"(?m)^### `(.+)`$", SECTIONS[section])


def texts_of(folder: Path) -> list[str]:
    """All strings of the modules below a folder, with a gap for each value that is filled in."""
    found = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def is_printed(message: str, texts: list[str]) -> bool:
    """Whether the parts of a message, between `…`, follow each other in one text, each with a value between them."""
    pattern = re.compile(r"[^\0]*\0.*?".join(re.escape(part) for part in re.split("…", message)), re.DOTALL)
    return any(pattern.search(text) for text in texts)


@pytest.fixture(scope="module")
def package_texts() -> list[str]:
    return texts_of(ROOT / "slimdiff")


@pytest.mark.parametrize(
    "message", [message for section in SECTIONS if section not in OTHERS for message in messages(section)]
)
def test_a_message_is_in_the_code(message, package_texts):
    assert is_printed(message, package_texts)


@pytest.mark.parametrize("message", messages("Snakemake"))
def test_a_message_of_snakemake_is_in_snakemake(message):
    modules = Path(snakemake.__file__).parent.rglob("*.py")
    assert any(message in path.read_text(encoding="utf-8") for path in modules)


def test_a_message_that_nothing_prints_is_found(package_texts):
    assert not is_printed("this message … does not exist", package_texts)
    assert not is_printed("folds.k: expected at least … wombats", package_texts)


def test_the_page_has_many_messages():
    assert sum(len(messages(section)) for section in SECTIONS) >= 30
