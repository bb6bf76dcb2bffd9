"""The cohorts of the race: their studies, with slices cached below a working folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from slimdiff.config import Study
from slimdiff.config.loading import study_from_mapping
from slimdiff.files import replacing

DEMO = Path(__file__).resolve().parents[2] / "config" / "demo.yaml"
OF_DATA = ("data", "preprocess", "slices", "folds")
"""Sections that determine the slices."""
OF_RECIPE = ("model", "diffusion", "training", "generation")
GRIDS = {"lgg": (3.0, [64, 64, 12]), "lgg-128": (1.5, [128, 128, 24])}
"""Spacing in mm and grid of the patients with glioma, at both resolutions."""
HELD_OUT, SEED = 27, 0
"""Held-out patients of lgg, and the seed of their choice."""


def study_of(cohort: str, work: Path, lgg: Path, variants: dict | None = None) -> Study:
    """The study of a cohort with the demo's recipe and without validation subjects, its slices cached below `work`.

    Raises SystemExit where `work` has the slices of other settings.
    """
    demo = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    values = {"study": cohort, "results_dir": str(work), **{name: demo[name] for name in OF_RECIPE}}
    values["variants"] = {"base": {}, **(variants or {})}
    if cohort == "phantom":
        values |= {name: demo[name] for name in OF_DATA} | {"evaluation": demo["evaluation"]}
        values["folds"] = {**demo["folds"], "val_fraction": 0}
    else:
        # Lesions are a hundred times larger than the phantom's.
        values["diffusion"]["loss"]["lesion_weight_mask"] = 1.3
        spacing, grid = GRIDS[cohort]
        values |= {
            "data": {"source": "table", "table": str(split_table(lgg, work))},
            "preprocess": {"spacing_mm": spacing, "grid": grid},
            "slices": {"z_range": "auto", "n_bins": 6, "min_lesion_mm2": 72},
            "folds": {"k": 1, "use_split": True, "val_fraction": 0},
            "evaluation": {"min_component_mm2": 45, "ring_mm": 9},
        }
    values["evaluation"] |= {"extractors": ["alexnet", "efficientnet"], "bootstrap": 20}
    study = study_from_mapping(values)
    cache_slices(study, {name: values[name] for name in OF_DATA}, values, work)
    return study


def cache_slices(study: Study, of_data: dict, values: dict, work: Path) -> None:
    """Run the stages up to the slice store, unless it is there with the same settings.

    of_data: the sections that determine the slices. values: the study. work: its `results_dir`.
    Raises SystemExit where `work` has the slices of other settings.
    """
    known, config = work / f"{study.study}.slices.json", work / f"{study.study}.json"
    if known.is_file():
        if json.loads(known.read_text()) != of_data:
            raise SystemExit(
                f"{known}: the slices were made with other settings; delete {work} or give another --work"
            )
        return
    with replacing(config) as temporary:
        temporary.write_text(json.dumps(values))
    stages = ("phantom",) * (study.data.source == "phantom")
    for stage in (*stages, "participants", "preprocess", "kfold", "cache"):
        subprocess.run([sys.executable, "-m", "slimdiff", stage, "--config", str(config)], check=True)
    with replacing(known) as temporary:
        temporary.write_text(json.dumps(of_data))


def split_table(source: Path, work: Path) -> Path:
    """The table of volumes with absolute paths and a column `split`: HELD_OUT patients, in the sites' shares."""
    if not source.is_file():
        raise SystemExit(
            f"{source}: expected the table of the lgg cohort, found no such file; give it with --lgg"
        )
    cohort = pd.read_csv(source, sep="\t")
    rng = np.random.default_rng(SEED)
    exact = cohort.groupby("site").size().sort_index() * HELD_OUT / len(cohort)
    number = np.floor(exact).astype(int)
    most = (exact - number).sort_values(ascending=False, kind="stable").index
    number[most[: HELD_OUT - number.sum()]] += 1
    cohort["split"] = "train"
    for site, count in number.items():
        rows = cohort.index[cohort.site == site]
        cohort.loc[rng.permutation(rows)[:count], "split"] = "test"
    for column in ("image", "mask"):
        cohort[column] = [str((source.parent / path).resolve()) for path in cohort[column]]
    path = work / "lgg.tsv"
    with replacing(path) as temporary:
        cohort.to_csv(temporary, sep="\t", index=False)
    return path
