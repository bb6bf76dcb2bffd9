"""The card beside a model: the numbers of its study, and nothing left open."""

import re

from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.files import sha256
from slimdiff.report.model_card import imported_card, model_card, write_model_cards


def sections(card: str) -> dict[str, str]:
    parts = re.split(r"(?m)^## (.+)$", card)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def test_the_card_has_the_numbers_of_its_fold(finished):
    card = model_card(finished, "other", 1)
    found = sections(card)
    assert all(found.values())
    store, parts = SliceStore.open(finished.paths.store), read_folds(finished.paths.folds, 1)
    rows = store.rows_of(parts["train"])
    lesions = int((store.label[rows] == 1).sum())
    assert (
        f"- training: {len(parts['train'])} subjects, {len(rows)} slices, {lesions} with a lesion"
        in found["Data"]
    )
    assert "20 optimiser steps" in found["Model"]
    assert sha256(finished.paths.model("other", 1) / "model.safetensors") in found["Model"]
    # 0.0213 + 0.01 for the fold + 0.02 for the variant (conftest.py).
    assert "| KID (alexnet) ↓ | 0.0513 | 0.0463 to 0.0553 | 0.0041 |" in found["Metrics"]
    assert "not measured: 7 real and 4 synthetic components; expected 10 of each" in found["Metrics"]
    assert "invented numbers, no patients" in card and "not stated" in found["Licence"]


def test_the_licence_of_the_images_is_on_the_card(finished):
    report = finished.report.model_copy(update={"licence": "CC0"})
    card = model_card(finished.model_copy(update={"report": report}), "base", 0)
    assert (
        "Licence of the images, which holds for what is made from them, too: CC0."
        in sections(card)["Licence"]
    )


def test_every_model_has_its_card(finished):
    write_model_cards(finished, ["base", "other"], 2)
    for variant in ("base", "other"):
        for fold in range(2):
            text = (finished.paths.model(variant, fold) / "MODEL_CARD.md").read_text()
            assert text.splitlines()[0].endswith(f"variant {variant}, fold {fold}")


def test_the_python_of_the_card_draws(finished, monkeypatch):
    code = re.search(r"```python\n(.+?)```", model_card(finished, "base", 0), re.DOTALL)[1]
    monkeypatch.chdir(finished.paths.model("base", 0))
    names: dict = {}
    exec(code.replace("n=8", "n=1, evaluations=2"), names)
    assert names["images"].shape == names["masks"].shape == (1, *SliceStore.open(finished.paths.store).size)


def test_an_imported_model_says_what_is_not_known(finished):
    found = sections(imported_card(finished.paths.model("base", 0) / "model.safetensors"))
    assert all(found.values()) and found["Metrics"].startswith("Not measured")
