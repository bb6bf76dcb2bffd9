"""The comparison with and without a start: its runs, its draws of patients, and its table."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality"))

import pretraining
import pretraining_table

PATIENTS = [f"sub-{number}" for number in range(54)]


def test_the_runs_are_those_of_the_plan():
    runs = list(pretraining.runs())
    assert len(set(runs)) == len(runs) == 2 * (5 + 5 + 4) * 3
    assert {patients for patients, _, _, way in runs if way == "frozen"} == {10}


def test_each_draw_adds_patients_to_the_smaller_ones():
    """So that a difference between 10 and 20 patients is not one of other patients."""
    for draw in pretraining.DRAWS:
        sets = [set(pretraining.chosen(PATIENTS, count, draw)) for count in pretraining.PATIENTS]
        assert [len(one) for one in sets] == list(pretraining.PATIENTS)
        assert all(smaller < larger for smaller, larger in pairwise(sets))
    assert len({tuple(pretraining.chosen(PATIENTS, 10, draw)) for draw in pretraining.DRAWS}) == 3
    assert pretraining.chosen(PATIENTS[::-1], 10, 0) == pretraining.chosen(PATIENTS, 10, 0)


def test_frozen_weights_stay_as_they_are(tmp_path):
    import torch
    from helpers.tiny_training import trainer_in

    trainer = trainer_in(tmp_path / "run", steps=3)
    pretraining.freeze(trainer)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run()
    changed = {
        name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed and not any(name.startswith(pretraining.FROZEN) for name in changed)


def test_reversed_slices_have_dark_lesions(tmp_path):
    from helpers.tiny_training import tiny_store

    store = tiny_store(tmp_path)
    other = pretraining.reversed_store(store)
    background = store.images <= pretraining.BACKGROUND
    assert (other.images[background] == store.images[background]).all()
    assert (other.images[~background] == -store.images[~background]).all()
    assert other.data_hash != store.data_hash
    masks = store.masks > 0
    assert pretraining.darker(store.images.astype(float), masks) == 0
    assert pretraining.darker(other.images.astype(float), masks) == 1


@pytest.fixture
def table(tmp_path, monkeypatch):
    (tmp_path / "tables").mkdir()
    monkeypatch.setattr(pretraining, "TABLE", tmp_path / "tables" / "pretraining.tsv")
    monkeypatch.setattr(pretraining_table, "DOCS", tmp_path)
    return pretraining.table()


def test_table_and_figure_have_mean_and_range_of_the_draws(table, tmp_path):
    with pytest.raises(SystemExit, match="found none"):
        pretraining_table.main()
    for draw, kid in ((1, 0.3), (0, 0.1)):
        row = {"metric": "kid", "extractor": "alexnet", "value": kid, "floor": 0.0}
        table.add((10, draw, 5, "start"), [row], pretraining.place)
    assert table.done() == {(10, 0, 5, "start"), (10, 1, 5, "start")}
    assert [row["draw"] for row in table.rows()] == ["0", "1"]
    pretraining_table.main()
    text = (tmp_path / "tables" / "pretraining.md").read_text()
    assert "| 10 | start | 2 of 3 | 0.200 [0.100, 0.300] |" in text
    assert "start, 5 min" in (tmp_path / "pretraining.svg").read_text()
