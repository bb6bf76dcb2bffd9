"""A card for people in each export, `DATASET_CARD.md`: the criteria of the scorecard for synthetic medical data.

Zamzmi et al. 2025 (Scorecard for Synthetic Medical Data Evaluation) name seven: congruence, coverage, constraint,
completeness, compliance, comprehension, consistency. Each has an answer here, if only that it was not measured and why.
"""

from pathlib import Path

import pandas as pd

import slimdiff
from slimdiff.evaluation.registry import describe
from slimdiff.export.cases import ModelSamples
from slimdiff.files import write_text
from slimdiff.redaction import markdown_text
from slimdiff.report.model_card import LIMITS, NO_USE, USE, citation, licence_of, metric_table
from slimdiff.report.results import read_metrics

NAME = "DATASET_CARD.md"
WITHOUT_METRICS = "Not measured: the stage metrics had not run when this was exported."
WITHOUT_FOLDS = "Not measured: this needs the metrics of at least two folds."


def write_card(draft: Path, model: ModelSamples, form: str) -> None:
    """Write the card of an export into its folder; form: bids, nnunet, monai or png."""
    write_text(draft / NAME, dataset_card(model, form))


def dataset_card(model: ModelSamples, form: str) -> str:
    """The card as Markdown."""
    study, variant, fold = model.study, model.variant, model.fold
    table = study.paths.metrics(variant, fold) / "metrics.tsv"
    rows = read_metrics(table) if table.is_file() else None
    subjects = {part: len(model.parts[part]) for part in ("train", "val", "test")}
    contents = f"Synthetic {markdown_text(study.data.modality_name)} slices with lesion masks"
    if form in ("nnunet", "monai"):
        contents += ", and real slices of the fold's training, validation and test subjects"
    height, width = model.store.size
    notice = study.report.notice

    def part(*axes: str) -> str:
        return WITHOUT_METRICS if rows is None else metric_table(rows, axes)

    return f"""# Dataset card: {markdown_text(study.study)}, variant {markdown_text(variant)}, fold {fold}, {form}

{markdown_text(notice) if notice else "No notice was set for this study."}

## What is in it

{contents}, {width} × {height} px of {model.store.spacing_mm:g} mm.
{model.about_samples} Made by slimdiff {slimdiff.__version__}.

The model was trained on {subjects["train"]} subjects, watched on {subjects["val"]} validation subjects, and judged on
{subjects["test"]} held-out subjects.

## Congruence: how close samples are to real slices

{part("image", "mask", "pair")}

## Coverage: whether the variety of real slices is there

Recall (image), and MMD of lesion shapes and intensities (lesion masks; image and mask together), in the table above.
Heights without samples, and lesions that are left out: see "What is in it".

## Constraint: whether samples obey what must hold

{part("control", "outliers")}

## Completeness: whether fields are missing

Every synthetic slice has an image, a mask, a z-bin, a class and the name of its noise stream. Age, sex, scanner and
diagnosis are not part of the model, and are missing in all samples.

## Compliance: privacy and licence

{part("memorisation")}

Licence of the images, which holds for what is made from them, too: {licence_of(study)}
Whether synthetic slices count as personal data is a matter of the law of your country and of the consent of the
subjects; these metrics are no proof that they do not.

## Comprehension: how it was made

`tables/methods.md` of the study has the methods in prose, `provenance.json` the configuration, software and hashes, and
`MODEL_CARD.md` beside the model describes the model.

## Consistency: whether other folds agree

{_spread(model)}

## Intended use

{USE}

Not for: {NO_USE}

## Limits

{LIMITS}

## Cite

{citation()}
"""


def _spread(model: ModelSamples) -> str:
    """Lowest and highest value over the folds of the metrics that a reader looks at first."""
    paths = model.study.paths
    tables = [paths.metrics(model.variant, fold) / "metrics.tsv" for fold in range(model.study.folds.k)]
    frames = [read_metrics(table) for table in tables if table.is_file()]
    if len(frames) < 2:
        return WITHOUT_FOLDS
    rows = pd.concat(frames, ignore_index=True)
    rows = rows[rows["z_bin"].isna() & rows["value"].notna()]
    lines = ["| metric | lowest | highest | folds |", "|---|---|---|---|"]
    for (name, extractor), own in rows.groupby(["metric", "extractor"], sort=False):
        if describe(name).headline and len(own) > 1:
            of = f" ({extractor})" if extractor else ""
            values = own["value"]
            lines.append(
                f"| {describe(name).label}{of} | {values.min():.3g} | {values.max():.3g} | {len(own)} |"
            )
    return "\n".join(lines) if len(lines) > 2 else WITHOUT_FOLDS
