"""Cells of the studies on real patients: a variant and fold each, by the package's own stages, kept as numbers.

A cell is trained, sampled and judged by `slimdiff train`, `generate` and `metrics`, so an interrupted one resumes. Its
metrics over all z-bins go into a tracked table; a cell that is in the table is not run again.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "quality"))

from race_cohorts import OF_DATA, cache_slices
from runs_table import METRIC, RunsTable, add_arguments

from slimdiff.config.loading import study_from_mapping
from slimdiff.files import MISSING, read_table, replacing

PROJECT = HERE.parents[1]
CONFIG, TABLES = PROJECT / "config", PROJECT / "docs" / "tables"
FOLDS = 6
STAGES = {"train": "train_s", "generate": "sample_s", "metrics": "metrics_s"}
"""Stage of a cell: the metric that has its seconds."""
Key = tuple[str, str, int]
"""Study, variant and fold."""


def table(path: Path) -> RunsTable:
    """A tracked table of cells."""
    return RunsTable(path, {"study": str, "variant": str, "fold": int})


def variants_of(name: str) -> list[str]:
    """The variants of a shipped study, in its order."""
    return list(yaml.safe_load((CONFIG / f"{name}.yaml").read_text(encoding="utf-8"))["variants"])


def parser_of(description: str) -> argparse.ArgumentParser:
    """The options of both commands."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", help="only this cell of the grid, or this coupling")
    parser.add_argument("--fold", type=int, choices=range(FOLDS))
    add_arguments(parser)
    parser.set_defaults(work=Path("results/patients"))
    return parser


def values_of(name: str, work: Path, volumes: Path) -> dict:
    """A shipped study with these volumes (a table) and this folder of results.

    Raises SystemExit where the table is missing.
    """
    if not volumes.is_file():
        raise SystemExit(
            f"{volumes}: expected the table of volumes of config/{name}.yaml, found no such file; give it with --lgg"
        )
    values = yaml.safe_load((CONFIG / f"{name}.yaml").read_text(encoding="utf-8"))
    values["data"]["table"] = str(volumes.resolve())
    return values | {"results_dir": str(work)}


def run_cell(kept: RunsTable, key: Key, values: dict, order: Sequence[Key]) -> None:
    """Train, sample and judge one cell, and add its metrics to the table.

    Args:
        kept: the tracked table.
        key: the cell.
        values: the study, with `results_dir`.
        order: all cells, in the order of the table.
    """
    study = study_from_mapping(values)
    work = Path(values["results_dir"])
    work.mkdir(parents=True, exist_ok=True)
    cache_slices(study, {name: values[name] for name in OF_DATA}, values, work)
    config = work / f"{study.study}.json"
    with replacing(config) as temporary:
        temporary.write_text(json.dumps(values))
    _, variant, fold = key
    seconds = {name: _timed(stage, config, work, variant, fold) for stage, name in STAGES.items()}
    rows = read_table(study.paths.metrics(variant, fold) / "metrics.tsv", ("z_bin", *METRIC))
    found = [{name: row[name] for name in METRIC} for row in rows if row["z_bin"] == "all"]
    facts = [{"metric": name, "extractor": MISSING, "value": value} for name, value in seconds.items()]
    kept.add(key, [*facts, *found], lambda own: order.index(own) if own in order else len(order))


def _timed(stage: str, config: Path, work: Path, variant: str, fold: int) -> float:
    """Run a stage; returns its seconds of processor time, over all tries that ended by themselves.

    A stage that was done in an earlier try returns the time of that try.
    """
    path = work / "seconds" / f"{config.stem}-{variant}-{fold}-{stage}.json"
    before = json.loads(path.read_text()) if path.is_file() else 0.0
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "slimdiff", stage, "--config", str(config)]
    done = subprocess.run([*command, "--variant", variant, "--fold", str(fold)])
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = before + end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(total))
    if done.returncode:
        raise SystemExit(f"slimdiff {stage}, {config.stem}, {variant}, fold {fold}: exit {done.returncode}")
    return total
