"""The methods text has the numbers of the study, and every reference that it cites."""

import re
from pathlib import Path
from typing import get_args

import pytest

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.evaluation import Extractor
from slimdiff.config.generation import GenerationConfig
from slimdiff.config.model import ModelConfig
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_included
from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import read_samples
from slimdiff.report import methods
from slimdiff.report.references import REFERENCES

SOFTWARE = {
    "slimdiff": "0.1.0",
    "git": {"commit": "0123456789abcdef", "changed": False},
    "python": "3.11",
    "packages": {"torch": "2.15.0", "lpips": None},
}


@pytest.fixture(scope="module")
def text(finished):
    return methods.methods_of(finished, ["base", "other"], 2, SOFTWARE).markdown("A & B", "no patients")


def test_participants_slices_and_folds_are_counted(finished, text):
    people = read_included(finished.paths.participants, finished.paths.volume_json)
    included = [person for person in people if person.included]
    patients = sum(person.is_patient for person in included)
    assert (
        f"images of {len(included)} participants: {patients} with a lesion mask and {len(included) - patients} without"
        in text
    )
    store = SliceStore.open(finished.paths.store)
    assert f"{len(store.z_bin)} slices of {store.size[0]} × {store.size[1]} px" in text
    assert f"{(store.label == 1).sum()} of them with a lesion" in text
    held_out = read_folds(finished.paths.folds, 1)["test"]
    rows = len(store.rows_of(held_out))
    participants = f"{len(held_out)} participant{'s' if len(held_out) > 1 else ''}"
    assert re.search(rf"fold 1: [^.;]* {participants} \({rows} slices\) held out", text)


def test_training_and_samples_have_their_numbers(finished, text):
    training, generation = finished.training, finished.generation
    # The step of the checkpoint, not that of the configuration.
    assert f"for 20 steps with batches of {training.batch_size} slices" in text
    drawn = read_samples(finished.paths.samples("base", 0), finished.slices.n_bins)
    assert f"{len(drawn.id)} pairs a fold, {(drawn.label == 1).sum()} of them of class 1" in text
    assert f"with {generation.evaluations} network evaluations each" in text
    assert f"from {finished.evaluation.bootstrap:,} bootstrap resamples" in text
    assert "slimdiff 0.1.0, commit 0123456789ab; Python 3.11; torch 2.15.0." in text


def test_every_reference_is_there_and_no_other(text):
    prose, _, bibtex = text.partition("## References")
    cited = set(re.findall(r"@(\w+)", " ".join(re.findall(r"\[@[^\]]*\]", prose))))
    entries = re.findall(r"^@\w+\{(\w+),", bibtex, re.MULTILINE)
    assert cited == set(entries) and len(entries) == len(cited) >= 6
    assert bibtex.count("{") == bibtex.count("}")


def test_the_page_is_the_text(finished, text):
    found = methods.methods_of(finished, ["base", "other"], 2, SOFTWARE)
    body = found.body()
    for _, paragraphs in found.sections:
        assert all(len(paragraph) > 15 for paragraph in paragraphs)
    assert body.count("<h2>") == len(found.sections) + 1
    assert "&lt;" not in body and "pascual2026" in body
    assert "no patients" in text and "no patients" not in body


def test_variants_are_named_with_what_they_change(finished):
    values = {"base": {}, "epsilon": {"diffusion": {"prediction": "epsilon"}, "training": {"steps": 7}}}
    study = finished.model_copy(update={"variants": values})
    (words,) = methods._variants(study, ["base", "epsilon"])
    assert "2 variants" in words and "epsilon (diffusion.prediction: epsilon, training.steps: 7)" in words
    assert methods._variants(study, ["base"]) == []
    assert "base (the study as it is)" in words and words.endswith("describes base.")


@pytest.mark.parametrize(
    ("words", "section", "key"),
    [
        (methods.COUPLINGS, ModelConfig, "coupling"),
        (methods.PREDICTIONS, DiffusionConfig, "prediction"),
        (methods.SAMPLERS, GenerationConfig, "sampler"),
    ],
)
def test_every_choice_of_the_configuration_has_words(words, section, key):
    assert set(words) == set(get_args(section.model_fields[key].annotation))


def test_every_extractor_and_every_citation_is_known():
    assert set(methods.EXTRACTORS) == set(get_args(Extractor))
    source = Path(methods.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"@(\w+\d{4})", source)) == set(REFERENCES)


def test_steps_of_preprocessing_are_described_with_their_source(finished):
    preprocess = finished.preprocess.model_copy(
        update={
            "bias_field": finished.preprocess.bias_field.model_copy(update={"n4": True}),
            "brain": finished.preprocess.brain.model_copy(update={"method": "deepbet"}),
            "registration": finished.preprocess.registration.model_copy(update={"transform": "affine"}),
            "harmonise": "histogram",
        }
    )
    study = finished.model_copy(update={"preprocess": preprocess})
    first, _ = methods._preprocessing(study, SliceStore.open(study.paths.store))
    for key in ("tustison2010", "fisch2024", "fonov2009", "nyul2000"):
        assert f"[@{key}]" in first
    assert "by an affine transform" in first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ("a floor of 0.5", "Haar wavelets")),
        ({"prediction": "epsilon"}, ()),
        ({"loss": {"lesion_weight_image": 2.0}}, ("a floor of 0.5", "of the image weigh 2 times")),
        ({"loss": {"wavelet_weights": (), "min_snr_gamma": None}}, ()),
        ({"prediction": "v", "loss": {"wavelet_weights": (4.0, 1.0)}}, ("Haar wavelets",)),
    ],
)
def test_the_loss_is_described_as_the_objective_takes_it(finished, change, words):
    study = finished.model_copy(update={"diffusion": DiffusionConfig.model_validate(change)})
    text = " ".join(methods._model(study, ["base"]))
    for phrase in ("a floor of 0.5", "Haar wavelets", "of the image weigh 2 times"):
        assert (phrase in text) == (phrase in words), phrase
