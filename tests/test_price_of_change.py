"""A new stage touches one file and one rule, a new metric three files."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers import recipes

from slimdiff import stages
from slimdiff.config import load_study

ROOT = Path(__file__).parents[1]


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
compare.summarise(study.paths, variants, folds, False)
rows = results.all_metrics(study.paths, variants, folds, False)
lines = metric_table.sections(metric_table.lines(rows, variants, folds))
shown = [[title, line.metric, registry.describe(line.metric).label] for title, found in lines for line in found]
print(json.dumps(shown))
"""


def test_a_new_metric_is_three_files(prepared, tmp_path):
    """docs/contributing/a_metric.md, followed word by word: tables, comparison and report then have the metric."""
    copy = recipes.copied(tmp_path / "copy")
    for step in recipes.steps("a_metric.md"):
        if step.say == "Run:":
            assert "passed" in recipes.run(step, copy)
        else:
            recipes.write(step, copy)

    root = tmp_path / "results" / prepared.study
    root.mkdir(parents=True)
    for name in ("slices", "folds.tsv"):
        (root / name).symlink_to(prepared.paths.root / name)
    values = prepared.model_dump(mode="json") | {"results_dir": str(tmp_path / "results")}
    (tmp_path / "study.json").write_text(json.dumps(values))
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "study.json"), str(copy / "slimdiff")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert ["Lesion masks", "speck_share", "Masks with specks, share"] in shown
    comparison = (root / "metrics" / "comparison.tsv").read_text().splitlines()
    of_metric = [line for line in comparison if "\tspeck_share\t" in line]
    # All three variants together, and each pair.
    assert len(of_metric) == 4
    assert all("\tfloor\t" in line for line in of_metric)
