"""Tiles, the page of all samples, facts, and what report.html and index.html take from the front page."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from slimdiff.data.folds import read_folds
from slimdiff.generation.samples import read_samples
from slimdiff.report.front import facts, tiles
from slimdiff.report.front.browse import browse_body
from slimdiff.report.front.embedding import index_page, with_front
from slimdiff.report.front.page import front_body, next_steps
from slimdiff.report.front.verdicts import Answer
from slimdiff.report.results import read_neighbours, read_outliers


@pytest.fixture(scope="module")
def drawn(finished, store):
    return {fold: read_samples(finished.paths.samples("base", fold), store.n_bins) for fold in range(2)}


def test_pairs_are_of_one_z_bin_and_class_and_never_from_the_training(finished, store, drawn):
    parts = read_folds(finished.paths.folds, 0)
    pairs = tiles.chosen_pairs(store, parts["test"], drawn[0])
    assert pairs == tiles.chosen_pairs(store, parts["test"], drawn[0])
    for pair in pairs:
        assert store.participant[pair.real] in parts["test"]
        assert store.z_bin[pair.real] == drawn[0].z_bin[pair.sample] == pair.z_bin
        assert store.label[pair.real] == drawn[0].label[pair.sample] == pair.label
    assert [pair.label for pair in pairs] == sorted((pair.label for pair in pairs), reverse=True)
    assert len({pair.sample for pair in pairs}) == len(pairs) <= tiles.COLUMNS


def test_a_tile_of_a_sheet_is_the_slice_at_its_place():
    rng = np.random.default_rng(0)
    planes = [tiles.plane_of(np.full((10, 8), level), np.zeros((10, 8))) for level in rng.uniform(-1, 1, 23)]
    picture = tiles.sheet(planes, 16)
    assert picture.shape == (2 * 20, 20 * 16, 3)
    for number, plane in enumerate(planes):
        row, column = divmod(number, 20)
        assert (picture[row * 20 : row * 20 + 20, column * 16 : column * 16 + 16] == plane.image[0, 0]).all()
    assert not picture[20:, 3 * 16 :].any()


def page_of(finished, store, drawn, **options) -> str:
    paths = finished.paths
    return browse_body(
        store, drawn, read_neighbours(paths, "base", 2), read_outliers(paths, "base", 2), **options
    )


def entries_of(page: str) -> list[tuple[set[str], str]]:
    return [
        (set(names.split()), rest)
        for names, rest in re.findall(r'<div class="one ([^"]+)">(.*?)</div>', page)
    ]


def test_every_sample_is_on_the_page_with_its_closest_training_slice(finished, store, drawn):
    page = page_of(finished, store, drawn)
    found = entries_of(page)
    assert len(found) == sum(len(own.id) for own in drawn.values())
    near = read_neighbours(finished.paths, "base", 2)
    near = near[near["space"] == near["space"].iloc[0]]
    for fold, own in drawn.items():
        of_fold = [text for names, text in found if f"fold-{fold}" in names]
        for row, text in enumerate(of_fold):
            owner = near[(near["fold"] == fold) & (near["sample"] == row)]["train_participant"].item()
            assert f'title="{own.id[row]}"' in text and f"closest: {owner}, " in text


def test_flags_are_those_of_the_tables(finished, store, drawn):
    found = entries_of(page_of(finished, store, drawn))
    near = read_neighbours(finished.paths, "base", 2)
    flagged = near[near["flagged"]].groupby(["fold", "sample"]).ngroups
    outliers = int(read_outliers(finished.paths, "base", 2)["outlier"].sum())
    assert sum("flag-copy" in names for names, _ in found) == flagged > 0
    assert sum("flag-outlier" in names for names, _ in found) == outliers > 0
    # The first two samples of a z-bin are of class 0 without a lesion, the others of class 1 with one.
    assert sum("flag-disobeys" in names for names, _ in found) == 0
    large = entries_of(page_of(finished, store, drawn, min_px=17))
    assert sum("flag-disobeys" in names for names, _ in large) == len(found) / 2


def test_the_pictures_keep_the_budget_as_far_as_tiles_can_shrink(finished, store, drawn):
    sizes = [len(page_of(finished, store, drawn, budget=budget)) for budget in (4_000_000, 100_000, 1)]
    assert sizes[0] > sizes[1] >= sizes[2]
    page = page_of(finished, store, drawn)
    assert "<script" not in page and "http" not in page
    first = re.search(r"url\(data:image/jpeg;base64,([^)]+)\)", page)[1]
    assert Image.open(io.BytesIO(base64.b64decode(first))).size[0] == 20 * 112


def test_of_too_many_samples_all_flagged_ones_are_shown(finished, store, drawn):
    every = entries_of(page_of(finished, store, drawn))
    flagged = [names for names, _ in every if "flag-none" not in names]
    page = page_of(finished, store, drawn, most=5)
    shown = [names for names, _ in entries_of(page)]
    assert len(shown) == len(flagged) + 5 < len(every)
    assert sum("flag-none" not in names for names in shown) == len(flagged)
    assert f"{len(shown)} of {len(every)} samples: all with a flag" in page


def test_held_out_subjects_are_persons_with_slices(store, finished):
    splits = [read_folds(finished.paths.folds, fold) for fold in range(2)]
    counts = facts.held_out_subjects(store, splits)
    for fold, split in enumerate(splits):
        lesioned = {
            name
            for name in split["test"]
            if any(store.label[row] for row in np.flatnonzero(store.participant == name))
        }
        assert counts[fold] == (len(split["test"]), len(lesioned))


@pytest.mark.parametrize(("last", "still"), [(0.10, True), (0.199, False), (0.3, False)])
def test_a_validation_that_still_improves_is_named(last, still):
    history = pd.DataFrame({"fold": [0, 0], "step": [50, 100]})
    validation = pd.DataFrame({"fold": [0, 0], "step": [50, 100], "kid": [0.2, last]})
    lines, falling = facts.training_facts(history, validation)
    assert falling is still and "step 100" in lines[0]
    steps = next_steps([Answer("texture", "good", "")], "base", False, falling)
    assert ("training.svg" in dict(steps)) is still


def test_the_costs_are_the_measured_times(finished):
    lines = facts.cost_facts(finished.paths.root / "benchmarks")
    assert "training 2 min" in lines[0] and "0.9 GB" in lines[1]
    assert "Not measured" in facts.cost_facts(finished.paths.root / "nothing")[0]


def test_index_html_has_every_result_its_caption_and_no_script():
    results = {
        "r/s/figures/a.svg": {
            "caption": "<p>What a shows.</p>",
            "mime_type": "image/svg+xml",
            "labels": {"page": "A"},
        },
        "r/s/tables/b.html": {
            "caption": "<p>What b has.</p>",
            "mime_type": "text/html",
            "labels": {"page": "B & C"},
        },
    }
    categories = {"2 More": {"Other": ["r/s/tables/b.html"]}, "1 Data": {"Other": ["r/s/figures/a.svg"]}}
    page = index_page('<div id="front">answer</div>', results, categories, "T <i>", "r/s")
    assert page.index("answer") < page.index("What a shows") < page.index("What b has")
    assert '<img alt="a.svg" loading="lazy" src="figures/a.svg">' in page
    assert '<a href="tables/b.html">Open b.html</a>' in page and "B &amp; C" in page
    assert "<script" not in page and "T &lt;i&gt;: report" in page


def test_texts_of_a_study_stay_text_on_the_front_page(finished):
    attack = "</p><script>x()</script><!-- end of the front page --> /home/NAME/secret"
    report = finished.report.model_copy(update={"title": attack, "notice": attack})
    study = finished.model_copy(update={"report": report})
    verdicts = {"base": [Answer("texture", "unknown", attack)], "other": [Answer("texture", "good", attack)]}
    body = front_body(study, verdicts, "", {"Facts": [attack]}, [("a.html", attack)])
    assert "<script" not in body and "<!--" not in body and "/home/NAME" not in body
    assert body.count("&lt;script&gt;") >= 5


def test_the_title_of_the_report_is_text():
    page = "<html><head><title>Snakemake Report</title></head><body></body></html>"
    changed = with_front(page, "", "</title><script>x()</script>")
    assert "&lt;/title&gt;&lt;script&gt;x()&lt;/script&gt;: report</title>" in changed
