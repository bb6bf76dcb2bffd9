"""The first line of the page for samples of a known kind, judged by the real metrics."""

import re

import pytest
from helpers.known_samples import FOLDS, grey_blobs, real_slices

from slimdiff.report.front.embedding import body_of
from slimdiff.report.results import all_metrics


def first_line_of(study) -> str:
    body = body_of(study.paths.tables / "front.html")
    return re.sub("<[^>]+>", "", re.search(r'<p class="first.*?</p>', body)[0])


def states_of(study) -> dict[str, str]:
    body = body_of(study.paths.tables / "front.html")
    found = re.findall(r'<td class="state (\w+)">[^<]+</td><th scope="row">([^<]+)</th>', body)
    return {question: state for state, question in found}


@pytest.fixture(scope="module")
def blobs(phantom_study):
    return phantom_study(grey_blobs, "blobs")


@pytest.fixture(scope="module")
def copies(phantom_study):
    return phantom_study(real_slices, "copies")


def test_grey_blobs_are_named_in_the_first_line(blobs):
    assert first_line_of(blobs).startswith(
        "Do not use these samples: their texture is far from that of real slices (grey blobs, blur or noise)"
    )
    states = states_of(blobs)
    assert states["Do the images look real?"] == "bad"
    assert states["Do image and mask fit together?"] == "bad"
    assert states["Do samples obey the requested class?"] == "good"


def test_copies_of_training_slices_look_real_and_are_named_as_copies(copies):
    line = first_line_of(copies)
    assert line.startswith("Do not use these samples: ") and "they copy training slices" in line
    states = states_of(copies)
    assert states["Are training slices copied?"] == "bad"
    assert states["Do the images look real?"] in ("good", "fair")


def test_the_page_shows_the_values_of_the_metrics(blobs):
    body = body_of(blobs.paths.tables / "front.html")
    rows = all_metrics(blobs.paths, ["base"], FOLDS, utility=False)
    contrast = rows[(rows["metric"] == "delta_median") & rows["z_bin"].isna()]
    assert any(f'<td class="n">{value:.3g}</td>' in body for value in contrast["value"])
    assert "12 with a lesion mask, 2 without; 0 excluded" in body
