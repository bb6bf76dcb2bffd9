"""A card for people beside each model: `models/{variant}/fold-{k}/MODEL_CARD.md`, and its parts for other cards."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import slimdiff
from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.registry import SYMBOLS, SYMBOLS_LEGEND, describe
from slimdiff.files import sha256, write_text
from slimdiff.redaction import markdown_text
from slimdiff.report.references import REFERENCES
from slimdiff.report.results import by_metric, read_metrics, reason_of_missing

if TYPE_CHECKING:
    from slimdiff.model.checkpoint import ModelCard

NAME = "MODEL_CARD.md"
NOT_STATED = (
    "not stated. Find out the licence of the images, and set `report.licence`, before you pass this on"
)
USE = (
    "Research on segmentation: more slices with lesions for the training of a segmenter, whose benefit is measured on "
    "held-out patients."
)
NO_USE = (
    "No diagnosis, no decision about a patient, no test set, and no proof that a method works on patients. Samples of "
    "one model are not independent subjects."
)
LIMITS = (
    "Samples are two-dimensional; neighbouring slices do not fit together. The model knows its training subjects only: "
    "scanners, ages and lesions that they lack are missing in its samples. Samples can resemble training slices; see "
    "the metrics of memorisation. Intervals are over the held-out subjects of this fold, and say nothing of another "
    "hospital."
)


def licence_of(study: Study) -> str:
    """The licence of the images, as the study states it."""
    return f"{markdown_text(study.report.licence)}." if study.report.licence else f"{NOT_STATED}."


def metric_table(rows: pd.DataFrame, axes: Sequence[str] | None = None) -> str:
    """A Markdown table of the headline metrics over all z-bins: value, interval, floor.

    Args:
        rows: of `read_metrics`, of one variant and fold.
        axes: keys of AXES; None: all.
    """
    lines = ["| metric | value | 95 % interval | floor |", "|---|---|---|---|"]
    for (name, extractor), own in by_metric(rows[rows["z_bin"].isna()]):
        metric = describe(name)
        if not metric.headline or (axes is not None and metric.axis not in axes):
            continue
        (row,) = own.itertuples()
        of = f" ({extractor})" if extractor else ""
        label = f"{metric.label}{of} {SYMBOLS[metric.better]}".strip()
        value = (
            f"not measured: {markdown_text(reason_of_missing(row))}"
            if pd.isna(row.value)
            else f"{row.value:.3g}"
        )
        interval = "none" if pd.isna(row.ci_low) else f"{row.ci_low:.3g} to {row.ci_high:.3g}"
        floor = "none" if pd.isna(row.floor) else f"{row.floor:.3g}"
        lines.append(f"| {label} | {value} | {interval} | {floor} |")
    if len(lines) == 2:
        return "Not measured."
    return "\n".join(
        [*lines, "", f"{SYMBOLS_LEGEND}. Floor: the same metric of training slices instead of samples."]
    )


def citation() -> str:
    """BibTeX of the method, and how to cite the software."""
    cite = f"slimdiff {slimdiff.__version__}; the method is SLIM-Diff (arXiv 2602.03372):"
    return f"{cite}\n\n```bibtex\n{REFERENCES['pascual2026']}\n```"


def facts_of(card: "ModelCard") -> list[str]:
    """What the card in the file says of the network and its training."""
    channels = ", ".join(map(str, card.model["channels"]))
    height, width = card.store_size
    hardware = (card.training_run or {}).get("hardware")
    training = f"{card.step:,} optimiser steps in {card.precision}"
    training += f" on {markdown_text(hardware)}" if hardware else ""
    training += f"; weights averaged with a decay of {card.ema_decay:g}" if card.ema_decay is not None else ""
    start = (
        card.init and f"{markdown_text(str(card.init['file']))} of {markdown_text(str(card.init['study']))}"
    )
    return [
        f"A {card.model['coupling']} U-Net with {channels} channels that predicts {card.diffusion['prediction']}: "
        "joint diffusion of an image and its lesion mask.",
        f"Slices of {width} × {height} px of {card.spacing_mm:g} mm, {card.n_bins} z-bins, with and without lesion.",
        f"{training}.",
        f"Started from {start or 'random weights'}.",
    ]


def how_to_load(name: str = "model.safetensors") -> str:
    """Two lines of Python that draw samples."""
    draws = f'images, masks = sample("{name}", n=8, z_bin=0, label=1, seed=0)'
    return f"```python\nfrom slimdiff import sample\n\n{draws}\n```"


def model_card(study: Study, variant: str, fold: int) -> str:
    """The card of a finished model as Markdown."""
    # torch, which exports do without.
    from slimdiff.model.checkpoint import read_card

    checkpoint = study.paths.model(variant, fold) / "model.safetensors"
    card = read_card(checkpoint)
    store, parts = SliceStore.open(study.paths.store), read_folds(study.paths.folds, fold)
    counts = []
    for part, words in (("train", "training"), ("val", "validation"), ("test", "held out")):
        rows = store.rows_of(parts[part])
        lesions = int((store.label[rows] == 1).sum())
        counts.append(f"{words}: {len(parts[part])} subjects, {len(rows)} slices, {lesions} with a lesion")
    rows = read_metrics(study.paths.metrics(variant, fold) / "metrics.tsv")
    notice = study.report.notice
    return f"""# Model card: {markdown_text(study.study)}, variant {markdown_text(variant)}, fold {fold}

{markdown_text(notice) if notice else "No notice was set for this study."}

## Model

{_bullets(facts_of(card))}
- File: `model.safetensors`, SHA-256 `{sha256(checkpoint)}`.

## Data

{markdown_text(study.data.modality_name)} slices of the study {markdown_text(study.study)}.

{_bullets(counts)}

Held-out subjects were not used in the training, and not in the choice of the weights.

## Metrics

{metric_table(rows)}

Definitions: docs/metric_definitions.md of slimdiff. All rows, also by z-bin:
`metrics/{variant}/fold-{fold}/metrics.tsv`.

## Intended use

{USE}

Not for: {NO_USE}

## Limits

{LIMITS}

## Licence

Licence of the images, which holds for what is made from them, too: {licence_of(study)}
The software is under the MIT licence.

## How to load

{how_to_load()}

## Cite

{citation()}
"""


def write_model_cards(study: Study, variants: Sequence[str], folds: int) -> None:
    """Write the card of each variant and fold beside its model."""
    for variant in variants:
        for fold in range(folds):
            write_text(study.paths.model(variant, fold) / NAME, model_card(study, variant, fold))


def imported_card_path(checkpoint: Path) -> Path:
    """Where the card of a converted model is written: several models may be in one folder."""
    return checkpoint.with_name(
        NAME if checkpoint.name == "model.safetensors" else f"{checkpoint.stem}.{NAME}"
    )


def imported_card(checkpoint: Path) -> str:
    """The card of a model that `slimdiff import` converted: what its file says, and what is not known."""
    from slimdiff.model.checkpoint import read_card

    card = read_card(checkpoint)
    return f"""# Model card: {markdown_text(card.study)}, imported

## Model

{_bullets(facts_of(card))}
- File: `{checkpoint.name}`, SHA-256 `{sha256(checkpoint)}`.

## Data

Not known: the imported file names no subjects.

## Metrics

Not measured: evaluate its samples in a study of your own.

## Intended use

{USE}

Not for: {NO_USE}

## Limits

{LIMITS}

## Licence

Not known: that of the imported file and of its training images.

## How to load

{how_to_load(checkpoint.name)}

## Cite

{citation()}
"""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
