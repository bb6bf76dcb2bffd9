"""Rules of the code's structure and language: files, names, stages, dependencies, English.

Import directions: tests/test_imports.py. Undeclared keys: tests/stages/test_needs.py.
The price of a change: tests/test_price_of_change.py. Call depth: tests/test_call_depth.py.
"""

import ast
import re
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

from slimdiff import stages

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


def test_a_module_has_at_most_450_lines():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: count for name, count in lines.items() if count > 450}


def importers() -> dict[str, set[str]]:
    """Dotted module: the modules of the package that import it."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                found.setdefault(name, set()).add(str(path.relative_to(PACKAGE)))
    return found


def test_a_module_that_one_other_imports_has_at_least_50_lines():
    """But for a section of the configuration and a stage: a file each."""
    used, small = importers(), []
    for path in MODULES:
        name = path.relative_to(PACKAGE)
        if name.parts[0] in ("config", "stages") or path.name in ("__init__.py", "__main__.py"):
            continue
        dotted = ".".join(("slimdiff", *name.with_suffix("").parts))
        if len(path.read_text().splitlines()) < 50 and len(used.get(dotted, ())) <= 1:
            small.append(str(name))
    assert not small


# Names -------------------------------------------------------------------------------------------------------------

# A file's name recurs only for the same subject, at the layers that it passes through.
LAYERS = {
    "bids.py": ["data/sources", "export"],
    "checkpoint.py": ["model", "training"],
    "compare.py": ["evaluation", "stages"],
    "data.py": ["config", "training"],
    "export.py": ["config", "stages"],
    "figures.py": ["report", "stages"],
    "folder.py": ["export", "generation"],
    "folds.py": ["config", "data"],
    "lesions.py": ["evaluation/metrics", "report"],
    "memorisation.py": ["evaluation/axes", "evaluation/metrics"],
    "outliers.py": ["evaluation/axes", "evaluation/metrics", "report"],
    "nnunet.py": ["data/sources", "export"],
    "participants.py": ["data", "report", "stages"],
    "png.py": [".", "export"],
    "preprocess.py": ["config", "data/volumes", "stages"],
    "priors.py": ["data", "stages"],
    "provenance.py": ["report", "stages"],
    "quality.py": ["config", "report", "stages"],
    "segmenter.py": ["evaluation/utility", "stages"],
    "slices.py": ["config", "data", "report"],
    "tables.py": ["report", "stages"],
    "utility.py": ["config", "evaluation/utility", "stages"],
    "weights.py": [".", "stages"],
}
STAGE_INTERFACE = {"outputs", "run", "add_arguments", "needs"}


def test_a_file_name_recurs_only_for_the_same_subject():
    found: dict[str, list[str]] = {}
    for path in MODULES:
        if path.name != "__init__.py":
            found.setdefault(path.name, []).append(str(path.parent.relative_to(PACKAGE)))
    assert {name: sorted(places) for name, places in found.items() if len(places) > 1} == LAYERS


def test_a_public_function_or_class_name_occurs_once():
    """But for the interfaces: of a stage, of a script's `main`, and of an export format's `write`."""
    found: dict[str, list[str]] = {}
    for path in MODULES:
        name = path.relative_to(PACKAGE)
        for node in tree_of(path).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if (
                (name.parts[0] == "stages" and node.name in STAGE_INTERFACE)
                or (name.parts[0] == "export" and node.name == "write")
                or node.name == "main"
            ):
                continue
            found.setdefault(node.name, []).append(str(name))
    assert not {name: places for name, places in found.items() if len(places) > 1}


# Dependencies ------------------------------------------------------------------------------------------------------

# Distribution: the module that it installs, where the names differ.
MODULE_OF = {
    "pyyaml": "yaml",
    "simpleitk": "SimpleITK",
    "connected-components-3d": "cc3d",
    "fill-voids": "fill_voids",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "torch-fidelity": "torch_fidelity",
    "scikit-posthocs": "scikit_posthocs",
}
# Distributions that the package needs without an import of its own.
USED_OTHERWISE = {
    "snakemake": "the commands of the README run it",
    "pygments": "snakemake --report highlights the rules with it",
    "torchvision": "lpips and torch-fidelity import it; torch's release pairs with it",
    "nilearn": "its wheel brings the ICBM152 template",
    "tensorboard": "torch.utils.tensorboard imports it",
}


def distributions(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower() for requirement in requirements}


def third_party(paths: list[Path]) -> set[str]:
    """Top-level modules that are imported and are neither the package's own nor Python's."""
    found = set()
    for path in paths:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"slimdiff"}


def test_every_dependency_is_imported_and_every_import_is_declared():
    declared = distributions(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    optional = distributions([*extras["wandb"], *extras["dinov2"]])
    imported = third_party(MODULES)
    modules = {name: MODULE_OF.get(name, name) for name in declared | optional}
    unused = {name for name in declared if modules[name] not in imported} - set(USED_OTHERWISE)
    assert not unused
    assert imported <= set(modules.values())
    assert set(USED_OTHERWISE) <= declared


@pytest.mark.parametrize("environment", ["cpu", "cuda"])
def test_the_conda_environments_have_the_same_dependencies_at_the_pinned_versions(environment):
    lines = (ROOT / "envs" / f"{environment}.yaml").read_text().splitlines()
    found = dict(re.findall(r"- ([\w.-]+)==?([\w.]+)$", "\n".join(lines), re.MULTILINE))
    pinned = dict(
        line.lower().split("==")
        for line in (ROOT / "envs" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    torch = found.pop(f"pytorch-{'gpu' if environment == 'cuda' else 'cpu'}")
    found.pop("python")
    found["torch"] = torch
    # The environment runs a job; the engine and its report are outside.
    needed = distributions(PROJECT["dependencies"]) - {"snakemake", "pygments"}
    assert set(found) == needed
    assert {
        name: pinned[name.replace("-", "_")] if name not in pinned else pinned[name] for name in found
    } == found


# Stages ------------------------------------------------------------------------------------------------------------


def rules() -> dict[str, str]:
    """Rule: its text."""
    text = "\n".join(path.read_text() for path in RULES)
    parts = re.split(r"(?m)^\s*rule (\w+):", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


WITHOUT_RULE = {"init", "run", "check", "generate-spec", "import", "pretrain", "reproduce"}
# Targets that run other rules.
TARGETS = {"preprocessed", "trained", "generated", "all"}


def test_rule_command_and_file_of_a_stage_have_one_name():
    names, found = stages.names(), rules()
    assert set(found) - TARGETS == {name.replace("-", "_") for name in names if name not in WITHOUT_RULE}
    scripts = PROJECT["scripts"]
    assert set(scripts) == {"slimdiff", *(f"slimdiff-{name}" for name in names)}
    for name in names:
        module = Path(stages.module_of(name).__file__).stem
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
    module = stages.module_of(name)
    assert re.fullmatch(r"[A-Z].{9,118}\.", stages.summary(name)), stages.summary(name)
    assert hasattr(module, "run") and hasattr(module, "FOLLOWS")
    assert hasattr(module, "outputs") == (name not in WITHOUT_RULE)


# English -----------------------------------------------------------------------------------------------------------

BANNED = {
    r"\b(is|are|was|were) wanted\b": "expected X, found Y",
    r"\b(go|goes|going|gone) on (with|from|where)\b": "resume",
    r"\bso-manieth\b": "every n-th",
    r"\bstands? (there|twice|alone in)\b": "is, duplicate",
    r"\banew\b": "again",
    r"\bin the place of\b": "instead of",
    r"\b(not to be had|(cannot|can't|could not) be had)\b": "not available",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bof its own accord\b": "by itself",
    r"\bso many of\b": "n",
    r"\bhas no (say|part) in\b": "is ignored",
    # "cannot be told" is the name of a state on the front page.
    r"(?<!cannot be )\btold\b": "conditioned on, passed",
    r"\b(nobody|somebody|everybody|whoever)\b": "the participants, no participant, a user",
    r"\bwaved through\b": "accepted",
    r"\blooked at again\b": "checked again",
    r"\bunless it is told\b": "unless set",
}
"""Idiom: what to write instead (docs and messages are read by people of many countries)."""


def prose(path: Path) -> str:
    """What a reader or user sees: the whole of a document; strings and comments of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    kept = []
    with path.open("rb") as stream:
        for token in tokenize.tokenize(stream.readline):
            if (
                token.type in (tokenize.STRING, tokenize.COMMENT, tokenize.FSTRING_MIDDLE)
                if PY312
                else (token.type in (tokenize.STRING, tokenize.COMMENT))
            ):
                kept.append(token.string)
    return "\n".join(kept)


PY312 = sys.version_info >= (3, 12)
TEXTS = [
    *MODULES,
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "workflow").rglob("*.smk")),
    *sorted((ROOT / "workflow").rglob("*.rst")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "mkdocs.yml",
    *sorted((ROOT / "config").glob("*.*")),
    ROOT / "Snakefile",
    ROOT / "CONTRIBUTING.md",
    ROOT / "README.md",
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_idiom(path):
    text = " ".join(prose(path).split())
    found = {
        match[0]: instead for idiom, instead in BANNED.items() for match in re.finditer(idiom, text, re.I)
    }
    assert not found


def test_the_word_list_finds_what_it_bans():
    worst = (
        "A folder is gone on with; mend it, nobody is wanted and it stands there anew in the place of others."
    )
    assert sum(bool(re.search(idiom, worst, re.I)) for idiom in BANNED) == 7
