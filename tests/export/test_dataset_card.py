"""The card of an export: an answer to each criterion, in every format, with the study's own numbers."""

import re

import pytest

from slimdiff.data.store import SliceStore
from slimdiff.export import bids, monai, nnunet, png
from slimdiff.export.cases import ModelSamples
from slimdiff.export.dataset_card import WITHOUT_FOLDS, WITHOUT_METRICS, dataset_card
from slimdiff.files import write_table

CRITERIA = (
    "Congruence",
    "Coverage",
    "Constraint",
    "Completeness",
    "Compliance",
    "Comprehension",
    "Consistency",
)
COLUMNS = ("study", "variant", "fold", "axis", "z_bin", "metric", "extractor", "value", "ci_low", "ci_high")
COLUMNS += ("n", "reference", "n_reference", "floor", "reason", "interval_reason")


def write_metrics(paths, variant, fold, kid):
    row = dict.fromkeys(COLUMNS, "n/a") | {
        "study": "tiny",
        "variant": variant,
        "fold": fold,
        "z_bin": "all",
        "n": 12,
    }
    rows = [
        {
            **row,
            "metric": "kid",
            "extractor": "alexnet",
            "value": kid,
            "ci_low": 0.1,
            "ci_high": 0.3,
            "floor": 0.05,
        },
        {**row, "metric": "memorisation_ratio", "extractor": "pixels", "reason": "no z-bin has a sample"},
    ]
    path = paths.metrics(variant, fold) / "metrics.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, rows, COLUMNS)


def sections(card: str) -> dict[str, str]:
    parts = re.split(r"(?m)^## (.+)$", card)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def test_each_criterion_has_an_answer(study):
    """Before and after the metrics."""
    model = ModelSamples.open(study, "base", 0, SliceStore.open(study.paths.store))
    before = sections(dataset_card(model, "png"))
    assert [name.split(":")[0] for name in before][1:8] == list(CRITERIA)
    assert all(before.values())
    assert before["Congruence: how close samples are to real slices"] == WITHOUT_METRICS
    write_metrics(study.paths, "base", 0, 0.2)
    one = sections(dataset_card(model, "png"))
    assert (
        "| KID (alexnet) ↓ | 0.2 | 0.1 to 0.3 | 0.05 |"
        in one["Congruence: how close samples are to real slices"]
    )
    privacy = one["Compliance: privacy and licence"]
    assert "not measured: no z-bin has a sample" in privacy and "not stated" in privacy
    assert one["Consistency: whether other folds agree"] == WITHOUT_FOLDS
    write_metrics(study.paths, "base", 1, 0.5)
    both = sections(dataset_card(model, "png"))
    assert "| KID (alexnet) | 0.2 | 0.5 | 2 |" in both["Consistency: whether other folds agree"]


@pytest.mark.parametrize("form", [bids, nnunet, monai, png])
def test_every_format_has_the_card(study, form):
    folder = form.write(ModelSamples.open(study, "base", 0, SliceStore.open(study.paths.store)))
    name = form.__name__.rpartition(".")[2]
    text = (folder / "DATASET_CARD.md").read_text()
    assert text.startswith("# Dataset card: ") and text.splitlines()[0].endswith(
        f", variant base, fold 0, {name}"
    )
    assert ("real slices of the fold" in text) == (name in ("nnunet", "monai"))
    assert (
        "trained on 2 subjects, watched on 1 validation subjects, and judged on\n1 held-out subjects." in text
    )


def test_the_licence_and_the_notice_are_those_of_the_study(study):
    report = study.report.model_copy(update={"licence": "CC BY 4.0", "notice": "Drawn, *not* patients."})
    model = ModelSamples.open(
        study.model_copy(update={"report": report}), "base", 0, SliceStore.open(study.paths.store)
    )
    card = dataset_card(model, "bids")
    assert "too: CC BY 4.0.\n" in card and "Drawn, \\*not\\* patients." in card
