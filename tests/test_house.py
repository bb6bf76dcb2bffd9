"""Rules of the code's structure: sizes of folders and files, one name per stage, the price of a new stage."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from slimdiff import stages
from slimdiff.config import load_study

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "slimdiff"
MODULES = sorted(PACKAGE.rglob("*.py"))
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# Folders and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["slimdiff", "benchmarks", "tests", "workflow", "docs", "config"])
def test_a_folder_level_has_at_most_twenty_files(base):
    folders = {
        path.parent for path in (ROOT / base).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    crowded = {}
    for folder in folders:
        files = [path for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"]
        # Tests mirror the package: a module may have several test files.
        limit = 25 if base == "tests" else 20
        if len(files) > limit:
            crowded[str(folder.relative_to(ROOT))] = len(files)
    assert not crowded


# Files that may be longer or shorter than a module should be, with the reason.
LONG: dict[str, str] = {}


def test_a_module_has_at_most_450_lines():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name for name, lines in long.items() if lines > 450} <= set(LONG)


# Stages ------------------------------------------------------------------------------------------------------------


def rules() -> dict[str, str]:
    """Rule: its text."""
    text = "\n".join(path.read_text() for path in RULES)
    parts = re.split(r"(?m)^\s*rule (\w+):", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


WITHOUT_RULE = {"generate-spec", "import"}
# Targets that run other rules.
TARGETS = {"preprocessed", "trained", "generated", "all"}


def test_rule_command_and_file_of_a_stage_have_one_name():
    names, found = stages.names(), rules()
    assert set(found) - TARGETS == {name.replace("-", "_") for name in names if name not in WITHOUT_RULE}
    scripts = PROJECT["scripts"]
    assert set(scripts) == {"slimdiff", *(f"slimdiff-{name}" for name in names)}
    for name in names:
        module = Path(stages.load(name).__file__).stem
        assert module.removesuffix("_").replace("_", "-") == name
        assert scripts[f"slimdiff-{name}"].removeprefix("slimdiff.cli:") in (module, name.replace("-", "_"))
        if name in WITHOUT_RULE:
            continue
        text = found[name]
        assert f'"slimdiff-{name} ' in text, name
        assert f'needs("{name}")' in text, name
        outputs = (
            "FIGURES|figure\\("
            if name == "figures"
            else "TABLES"
            if name == "tables"
            else f'outputs\\("{name}"'
        )
        assert re.search(outputs, text), name
        for kind in ("log", "benchmark"):
            own = re.search(rf'{kind}:\s+{"LOGS" if kind == "log" else "BENCHMARKS"} / "(\w+)', text)
            assert own and own[1] == name, (name, kind)


@pytest.mark.parametrize("name", stages.names())
def test_a_stage_says_what_it_does_in_one_line(name):
    module = stages.load(name)
    assert module.__doc__.strip().splitlines()[0].endswith((".", ":", ";", ",")) or "\n" in module.__doc__
    assert hasattr(module, "run") and hasattr(module, "FOLLOWS")
    assert hasattr(module, "outputs") == (name not in WITHOUT_RULE)


# Change has a price ------------------------------------------------------------------------------------------------


def test_a_new_stage_is_one_file_and_one_rule(tmp_path, monkeypatch):
    """A stage that a file adds is in the chain, in `slimdiff --help`, and reads its declared keys only."""
    (tmp_path / "dummy.py").write_text(
        '"""Count the folds."""\n\nFOLLOWS = "kfold"\nNEEDS = ("folds.k",)\n\n\n'
        "def outputs(paths):\n    return [paths.root / 'dummy.txt']\n\n\n"
        "def run(study, options):\n    print(study.folds.k, 'folds')\n"
    )
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path)])
    names = stages.names()
    assert names.index("dummy") > names.index("kfold")
    from slimdiff import cli

    study = load_study(ROOT / "config" / "demo.yaml")
    assert cli.main(["dummy", "--config", stages.config_of("dummy", study)]) == 0
    sys.modules.pop("slimdiff.stages.dummy", None)
