"""The study that `slimdiff init` writes: what was found, and the keys that a user changes first, with comments."""

import re
from collections import Counter
from pathlib import Path

import yaml

from slimdiff.preflight.survey import Survey
from slimdiff.redaction import shown_text

FEWEST_HELD_OUT = 5
"""Held-out subjects from which metrics have intervals."""


def study_name(place: Path) -> str:
    """A name for the study, from that of its folder or table."""
    stem = Path(place).resolve().name.removesuffix(".tsv").removesuffix(".csv")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_.-") or "my_study"


def folds_for(patients: int) -> int:
    """Folds that leave at least five held-out patients each, from 2 to 5."""
    return min(max(patients // FEWEST_HELD_OUT, 2), 5)


def first_study(name: str, found: Survey, results_dir: str | None = None) -> str:
    """The study as YAML with comments; results_dir: where its results go, if not in `results`."""
    included, excluded = found.included, [row for row in found.participants if not row.included]
    groups = Counter(row.group for row in included)
    counted = ", ".join(f"{group} {count}" for group, count in groups.most_common(8))
    licence = found.description.get("License")
    title = found.description.get("Name")
    lines = [
        f"# Written by `slimdiff init`: {found.patients} patients and {len(included) - found.patients} controls, "
        f"{len(excluded)} excluded; groups: {shown_text(counted)}.",
        "# Check these numbers: a patient who counts as a control teaches the model that lesions are healthy. Next:",
        "#   snakemake --cores all quality --configfile THIS_FILE    # look at every volume",
        "#   snakemake --cores all --configfile THIS_FILE            # train, draw, judge",
        "# All keys: config/README.md.",
        _yaml({"study": name}),
    ]
    if results_dir:
        lines.append(_yaml({"results_dir": results_dir}))
    lines += ["", _yaml({"data": found.data}), ""]
    lines += [
        "# Add the steps that the volumes need, and only those:",
        "# preprocess:",
        "#   brain: {method: deepbet}         # if the skull is still there",
        "#   bias_field: {n4: true}           # if they have a bias field",
        "#   registration: {transform: rigid} # if heads are not aligned",
        "#   spacing_mm: [1.25, 1.25, native] # thick slices (3 to 6 mm): keep them as they are",
        "",
        "# slices:",
        "#   min_lesion_mm2: 0                # small lesions count, too",
        "",
        "folds:",
        f"  k: {folds_for(found.patients)}"
        + (
            f" # each holds out about {found.patients // folds_for(found.patients)} patients; metrics have intervals "
            f"from {FEWEST_HELD_OUT} on"
        ),
        "",
        "# training:",
        "#   steps: 2000                      # fewer steps for a first look",
    ]
    if len({row.acquisition for row in included}) > 1:
        lines += [
            "",
            "# model:",
            "#   acquisition: true                # the network is given the scanner or protocol",
        ]
    report = {}
    if isinstance(title, str) and title.strip():
        report["title"] = shown_text(" ".join(title.split()))[:80]
    if isinstance(licence, str) and licence.strip():
        report["licence"] = shown_text(" ".join(licence.split()))[:80]
    lines.append("")
    lines += (
        [_yaml({"report": report})]
        if report
        else ["# report:", "#   licence: CC0                     # of the images"]
    )
    if report and "licence" not in report:
        lines.append("  # licence: CC0                     # of the images")
    return "\n".join(lines) + "\n"


def _yaml(values: dict) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000).rstrip()
