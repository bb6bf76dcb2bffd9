"""Imports have one direction, and the core needs only torch, numpy, pydantic, safetensors and tqdm."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "slimdiff"
CORE = ("model", "diffusion", "training", "generation")
CORE_THIRD_PARTY = {"torch", "numpy", "pydantic", "safetensors", "tqdm", "yaml"}

# {package: packages of slimdiff that it may import}
ALLOWED = {
    "config": {"config", "redaction"},
    "model": {"model", "files"},
    "diffusion": {"diffusion", "devices"},
    "data": {"data", "config", "files", "locks", "orphans", "stored_rows"},
    "training": {"training", "model", "diffusion", "config", "data", "files", "png", "devices", "orphans"},
    "generation": {
        "generation",
        "model",
        "diffusion",
        "config",
        "data",
        "files",
        "redaction",
        "devices",
        "stored_rows",
    },
    "evaluation": {
        "evaluation",
        "config",
        "data",
        "files",
        "generation",
        "dataframes",
        "weights",
        "devices",
        "model",
        "stored_rows",
    },
    "export": {
        "export",
        "config",
        "data",
        "files",
        "locks",
        "generation",
        "png",
        "evaluation",
        "redaction",
        "report",
    },
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_have_one_direction(package):
    for path in (PACKAGE / package).rglob("*.py"):
        used = {name.split(".")[1] for name in imported(path) if name.startswith("slimdiff.")}
        assert used - {"__version__"} <= ALLOWED[package], path.name


@pytest.mark.parametrize("package", ["evaluation", "export", "report"])
def test_other_packages_import_only_the_sample_files_of_generation(package):
    for path in (PACKAGE / package).rglob("*.py"):
        used = {name for name in imported(path) if name.startswith("slimdiff.generation")}
        assert all(name.startswith("slimdiff.generation.samples") for name in used), path.name


def test_export_imports_only_grey_levels_names_of_metrics_figures_and_cards_of_others():
    evaluation = ("slimdiff.evaluation.metrics.grey_levels", "slimdiff.evaluation.registry")
    report = tuple(f"slimdiff.report.{module}" for module in ("slices", "style", "model_card", "results"))
    for path in (PACKAGE / "export").glob("*.py"):
        used = {
            name for name in imported(path) if name.startswith(("slimdiff.evaluation", "slimdiff.report"))
        }
        assert all(name.startswith((*evaluation, *report)) for name in used), path.name


def test_nothing_imports_the_commands():
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "__main__.py"}:
        assert not any(name.startswith("slimdiff.cli") for name in imported(path)), path


def test_the_core_imports_without_other_packages():
    """In a process in which importing any other third-party package fails."""
    modules = [
        f"slimdiff.{package}.{path.stem}"
        for package in (*CORE, "config")
        for path in sorted((PACKAGE / package).glob("*.py"))
        if path.stem != "__init__"
    ]
    script = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"nibabel", "torchio", "scipy", "skimage", "pandas", "matplotlib", "seaborn",
                                  "snakemake", "torchvision", "torch_fidelity", "lpips", "nilearn", "yaml", "PIL",
                                  "tensorboard", "wandb"}}:
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
further = ["slimdiff.data.store", "slimdiff.data.folds", "slimdiff.cli", "slimdiff.evaluation.monitor"]
further += ["slimdiff.stages.train", "slimdiff.stages.generate", "slimdiff.stages.commands.generate_spec"]
for module in {modules!r} + further:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
