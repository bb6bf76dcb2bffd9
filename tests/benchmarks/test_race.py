"""The race: runs, table and split can be trusted, and nothing old is taken for new."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality"))

import against_published
import race_cohorts
import race_sides
import race_table

from slimdiff.config.loading import study_from_mapping
from slimdiff.data.folds import read_folds


@pytest.fixture
def table(tmp_path, monkeypatch):
    path = tmp_path / "race.tsv"
    monkeypatch.setattr(race_table, "TABLE", path)
    monkeypatch.setattr(race_table, "DOCS", tmp_path)
    return path


@pytest.fixture
def volumes(tmp_path):
    sites = ["A"] * 33 + ["B"] * 25 + ["C"] * 12 + ["D"] * 10 + ["E"]
    rows = [
        {"participant_id": f"p{i:02d}", "image": f"{i}.nii.gz", "mask": f"{i}_m.nii.gz", "site": site}
        for i, site in enumerate(sites)
    ]
    path = tmp_path / "source" / "volumes.tsv"
    path.parent.mkdir()
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


def metrics(key, value):
    about = dict(zip(("cohort", "side", "minutes", "seed"), key, strict=True))
    return [{**about, "metric": "kid", "extractor": "alexnet", "value": value, "floor": 0.0}]


def test_runs_of_the_race_are_those_of_the_plan():
    runs = list(against_published.race())
    assert len(set(runs)) == len(runs)
    assert {minutes for _, side, minutes, _ in runs if side == "published"} == {15}
    assert {side for _, side, minutes, _ in runs if minutes == 3} == {"slimdiff"}
    assert {minutes for _, side, minutes, _ in runs if side == "published-tuned"} == {5, 15, 60}
    assert {key[2] for key in against_published.ideas()} == {5}
    assert [key for key in runs if key[2] == 60 and key[3] != 0] == []
    assert {minutes for cohort, _, minutes, _ in runs if cohort == "lgg-128"} == {60}
    assert {cohort for cohort, *_ in against_published.ideas()} == {"phantom", "lgg"}


def test_the_large_slices_are_of_the_same_patients(tmp_path, volumes, monkeypatch):
    monkeypatch.setattr(race_cohorts, "cache_slices", lambda *_: None)
    small, large = (race_cohorts.study_of(name, tmp_path, volumes) for name in ("lgg", "lgg-128"))
    assert small.data == large.data
    extents = [
        [side * study.preprocess.spacing_mm for side in study.preprocess.grid] for study in (small, large)
    ]
    assert extents[0] == extents[1]
    assert large.preprocess.grid[:2] == (128, 128)


def test_every_idea_changes_the_recipe(tmp_path, volumes, monkeypatch):
    monkeypatch.setattr(race_cohorts, "cache_slices", lambda *_: None)
    for cohort in against_published.COHORTS:
        study = race_cohorts.study_of(cohort, tmp_path, volumes, against_published.IDEAS)
        base = study.variant("base")
        for name in against_published.IDEAS:
            own = study.variant(name)
            changed = [part for part in race_cohorts.OF_RECIPE if getattr(own, part) != getattr(base, part)]
            assert bool(changed) == (name != "none"), (cohort, name)


def test_ideas_that_only_change_the_sampling_have_the_network_of_the_race(tmp_path, volumes, monkeypatch):
    monkeypatch.setattr(race_cohorts, "cache_slices", lambda *_: None)
    study = race_cohorts.study_of("lgg", tmp_path, volumes, against_published.IDEAS)
    base = race_sides.recipe_of(study.variant("base"), race_sides.NETWORK)
    same = {
        name
        for name in against_published.IDEAS
        if race_sides.same_recipe(race_sides.recipe_of(study.variant(name), race_sides.NETWORK), base)
    }
    assert same == {"none", "background-drawn", "evaluations-20", "masks-as-estimated", "trailing"}
    # As read from a file; the race sets the steps itself.
    longer = json.loads(json.dumps(base))
    longer["training"]["steps"] += 1
    assert race_sides.same_recipe(base, longer)
    longer["training"]["batch_size"] += 1
    assert not race_sides.same_recipe(base, longer)


def test_an_idea_has_as_many_steps_as_take_the_same_time(tmp_path, monkeypatch):
    """By the ratio of both, measured in turn: a slow day changes neither."""
    monkeypatch.setattr(race_sides, "trainer_of", lambda study, *_: study)
    for slow in (1.0, 7.0):
        monkeypatch.setattr(
            race_sides, "step_seconds", lambda pair, slow=slow: [slow * seconds for seconds in pair]
        )
        assert race_sides.steps_as_long(0.4, 0.2, None, [], 900, 0, tmp_path) == 450
        assert race_sides.steps_within(0.4 / slow, None, [], 300, 0, tmp_path) == 750


def test_an_interrupted_training_of_the_race_goes_on(prepared, store, tmp_path, monkeypatch):
    """With the steps of its first try, to the same network; its seconds are those of all steps."""
    study, train = prepared, read_folds(prepared.paths.folds, 0)["train"]
    monkeypatch.setattr(race_sides, "SAVE_EVERY", 2)
    wanted = [(int(store.z_bin[0]), 0)]

    class Halted(Exception):
        pass

    def halt(trainer):
        plain = trainer.advance

        def advance():
            if trainer.step == 3:
                raise Halted
            plain()

        trainer.advance = advance

    whole, whole_facts = race_sides.run_slimdiff(
        study, store, train, wanted, lambda: 6, 0, tmp_path / "whole"
    )
    with pytest.raises(Halted):
        race_sides.run_slimdiff(study, store, train, wanted, lambda: 6, 0, tmp_path / "halted", halt)
    made = []
    monkeypatch.setattr(race_sides.time, "process_time", lambda: float(2 * sum(one.made for one in made)))
    again = race_sides.run_slimdiff(
        study, store, train, wanted, lambda: 99, 0, tmp_path / "halted", made.append
    )
    # The first two steps were saved, so the second try made four of the six, two seconds each.
    assert [one.made for one in made] == [4]
    assert again[1]["train_s"] == 12 and again[1]["steps"] == 6 == whole_facts["steps"]
    assert np.array_equal(again[0], whole)


def test_steps_of_several_trainers_are_timed_in_turn(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(race_sides.time, "process_time", lambda: now[0])

    class Fake:
        def __init__(self, seconds):
            self.seconds = seconds

        def advance(self):
            now[0] += self.seconds
            order.append(self.seconds)

    found = race_sides.step_seconds([Fake(2.0), Fake(3.0)])
    assert found == pytest.approx([2.0, 3.0])
    assert order == [2.0, 3.0] * (race_sides.UNTIMED_STEPS + race_sides.TIMED_STEPS)


def test_runs_are_added_in_order_and_found_again(table):
    keys = list(against_published.race())[:3]
    for number, key in enumerate(reversed(keys)):
        race_table.runs().add(key, metrics(key, number / 10), against_published.place)
    assert race_table.done() == set(keys)
    assert [race_table.runs().key_of(row) for row in race_table.read_rows()] == keys
    assert float(race_table.read_rows()[0]["value"]) == 0.2


def test_the_figure_has_a_line_for_every_side(table):
    for number, key in enumerate(against_published.race()):
        race_table.runs().add(key, metrics(key, 0.1 + number / 100), against_published.place)
    race_table.plot()
    text = table.with_suffix(".svg").read_text()
    assert all(f"<!-- {side} -->" in text for side in (*race_table.COLOURS, "floor"))


def test_held_out_patients_are_in_the_shares_of_the_sites(tmp_path, volumes):
    found = pd.read_csv(race_cohorts.split_table(volumes, tmp_path), sep="\t")
    held_out = found[found.split == "test"].groupby("site").size()
    assert len(found) == 81 and held_out.sum() == 27
    exact = found.groupby("site").size() / 3
    assert (held_out.reindex(exact.index, fill_value=0) - exact).abs().max() < 1
    assert all(Path(path).parent == volumes.parent for path in found.image)
    again = pd.read_csv(race_cohorts.split_table(volumes, tmp_path), sep="\t")
    assert found.equals(again)


def test_a_missing_cohort_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"absent\.tsv: expected the table .* --lgg"):
        race_cohorts.split_table(tmp_path / "absent.tsv", tmp_path)


def test_slices_of_other_settings_are_refused(tmp_path, volumes, monkeypatch):
    done = []
    monkeypatch.setattr(race_cohorts.subprocess, "run", lambda command, check: done.append(command[3]))
    race_cohorts.study_of("lgg", tmp_path, volumes)
    assert done == ["participants", "preprocess", "kfold", "cache"]
    race_cohorts.study_of("lgg", tmp_path, volumes)
    assert len(done) == 4
    known = tmp_path / "lgg.slices.json"
    known.write_text(json.dumps(json.loads(known.read_text()) | {"preprocess": {"spacing_mm": 2.0}}))
    with pytest.raises(SystemExit, match=r"lgg\.slices\.json: .* other settings; delete"):
        race_cohorts.study_of("lgg", tmp_path, volumes)


def test_samples_of_another_recipe_are_refused(tmp_path, volumes, monkeypatch, table):
    folder = tmp_path / "runs" / "lgg-slimdiff-5-0"
    folder.mkdir(parents=True)
    np.savez(folder / "drawn-and-facts.npz", drawn=np.zeros((2, 2, 4, 4)), facts="{}", recipe='{"model": {}}')
    monkeypatch.setattr(race_cohorts, "cache_slices", lambda *_: None)
    monkeypatch.setattr("slimdiff.data.folds.read_folds", lambda *_: {"test": ["a"], "train": ["b"]})
    store = type(
        "Store", (), {"rows_of": lambda self, _: np.arange(2), "z_bin": np.zeros(2), "label": np.zeros(2)}
    )
    monkeypatch.setattr("slimdiff.data.store.SliceStore.open", lambda _: store())
    with pytest.raises(SystemExit, match="of another recipe; delete"):
        against_published.run(("lgg", "slimdiff", 5, 0), tmp_path, volumes)
    assert race_table.read_rows() == []


def test_samples_of_other_default_weights_are_of_another_recipe(monkeypatch):
    study = study_from_mapping({})
    before = race_sides.recipe_of(study, ("diffusion",))
    assert before == race_sides.recipe_of(study, ("diffusion",))
    monkeypatch.setattr(race_sides, "WAVELET_WEIGHTS", (3.0, 1.0))
    assert race_sides.recipe_of(study, ("diffusion",)) != before


def test_the_short_table_has_every_run_and_the_values_of_both_seeds():
    rows = metrics(("lgg", "slimdiff", 5, 0), 0.0264) + metrics(("lgg", "slimdiff", 5, 1), 0.031)
    rows += metrics(("lgg", "published-tuned", 60, 0), -0.0014) + metrics(("phantom", "slimdiff", 3, 0), 0.5)
    rows.append({**rows[0], "metric": "precision", "value": 0.52, "floor": 0.74})
    text = race_table.markdown([{key: str(value) for key, value in row.items()} for row in rows])
    lgg, phantom = text.split("## lgg")[1].split("## phantom")
    assert "| | slimdiff, 5 minutes | published-tuned, 60 minutes | floor |" in lgg
    assert "| KID, AlexNet | 0.026; 0.031 | −0.001 | 0.000 |" in lgg
    # A metric that a run lacks is n/a beside one that it has.
    assert "| precision and recall, AlexNet | 0.52 / n/a |  | 0.74 / n/a |" in lgg
    assert "| KID, AlexNet | 0.500 | 0.000 |" in phantom
