"""A new stage touches one file and one rule, a new metric three files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from slimdiff import stages
from slimdiff.config import load_study

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "slimdiff"


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


METRIC = '''"""Share of lesion pixels."""

import numpy as np


def lesion_pixel_share(masks: np.ndarray, tau: float) -> float:
    """Share of the pixels of (N, H, W) masks above `tau`."""
    return float((np.asarray(masks, np.float32) > tau).mean())
'''
AXIS = """
    evaluation.add(
        "lesion_pixel_share",
        lesion_pixel_share(samples.masks, config.tau),
        floor=0.0,
        n=len(samples.masks),
        interval_reason="a test",
    )
"""
USE = """
import json, sys
from pathlib import Path
import pandas as pd
from slimdiff.config import Study
from slimdiff.evaluation import compare, evaluate, registry
from slimdiff.report import metric_table, results

assert Path(registry.__file__).is_relative_to(sys.argv[2]), registry.__file__
study = Study.model_validate_json(Path(sys.argv[1]).read_text())
for variant in ("a", "b", "c"):
    for fold in range(study.folds.k):
        evaluation = evaluate.evaluation_of_training_slices(study, fold)
        evaluation.names["variant"] = variant
        evaluate.write_tables(
            study.paths.metrics(variant, fold), evaluate.evaluate(evaluation, ["mask"]), ["mask"], ending=""
        )
variants, folds = ["a", "b", "c"], study.folds.k
compare.compare(study.paths, variants, folds, False, False)
evaluate.summarise(study.paths, variants, folds, False)
rows = results.all_metrics(study.paths, variants, folds, False)
lines = metric_table.sections(metric_table.lines(rows, variants, folds))
shown = [[title, line.metric, registry.describe(line.metric).label] for title, found in lines for line in found]
print(json.dumps(shown))
"""


def test_a_new_metric_is_three_files(prepared, tmp_path):
    """Its function, its call in an axis and its row in the registry: tables, comparison and report have it."""
    copy = tmp_path / "copy" / "slimdiff"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "evaluation" / "metrics" / "pixel_share.py").write_text(METRIC)
    axis = copy / "evaluation" / "axes" / "mask.py"
    before = '    evaluation.add(\n        "mask_undecided",'
    text = axis.read_text()
    assert before in text
    text = text.replace(before, f"{AXIS}{before}", 1)
    head = "from slimdiff.evaluation.metrics.mmd import MIN_VECTORS\n"
    text = text.replace(
        head, f"{head}from slimdiff.evaluation.metrics.pixel_share import lesion_pixel_share\n", 1
    )
    axis.write_text(text)
    registry = copy / "evaluation" / "registry.py"
    row = '        Metric("mask_undecided"'
    new = '        Metric("lesion_pixel_share", "mask", "Lesion pixels, share", "lower"),\n'
    registry.write_text(registry.read_text().replace(row, f"{new}{row}", 1))

    root = tmp_path / "results" / prepared.study
    root.mkdir(parents=True)
    for name in ("slices", "folds.tsv"):
        (root / name).symlink_to(prepared.paths.root / name)
    values = prepared.model_dump(mode="json") | {"results_dir": str(tmp_path / "results")}
    (tmp_path / "study.json").write_text(json.dumps(values))
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "study.json"), str(copy)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert ["Lesion masks", "lesion_pixel_share", "Lesion pixels, share"] in shown
    comparison = (root / "metrics" / "comparison.tsv").read_text().splitlines()
    of_metric = [line for line in comparison if "\tlesion_pixel_share\t" in line]
    # All three variants together, and each pair.
    assert len(of_metric) == 4
    assert all("\tlower\t" in line for line in of_metric)
