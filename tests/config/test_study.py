"""An invalid configuration is an error that names key, value and what is allowed."""

import copy
import json
from pathlib import Path

import pytest

from slimdiff.config import (
    ConfigError,
    Study,
    check_acquisitions,
    load_study,
    study_from_mapping,
)
from slimdiff.config.base import Section

FITTING = {"preprocess": {"grid": [32, 32, 32]}, "slices": {"z_range": [5, 20], "n_bins": 4}}


def changed(base: dict, place: str, value) -> dict:
    values = copy.deepcopy(base)
    *parents, last = place.split(".")
    inner = values
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return values


def refusal(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        study_from_mapping(values)
    return str(caught.value)


def test_defaults_are_those_of_the_paper():
    study = study_from_mapping({})
    assert study.preprocess.spacing_mm == 1.25
    assert study.slices.z_range == (34, 115)
    assert study.slices.n_bins == 30
    assert study.model.widths == (64, 128, 256, 256)
    assert (study.diffusion.schedule, study.diffusion.prediction) == ("cosine", "x0")


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("trainning", {}, ("trainning", "training")),
        ("training.learning_rat", 1e-4, ("training.learning_rat", "learning_rate")),
        ("diffusion.loss.p_imag", 2.0, ("diffusion.loss.p_imag", "p_image")),
        ("data.phantom.patient", 3, ("data.phantom.patient", "patients")),
        ("variants.wide.model.chanels", [64], ("variants.wide.model.chanels", "channels")),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_known_one(place, value, expected):
    message = refusal(changed(FITTING, place, value))
    key, near = expected
    assert key in message
    assert f"did you mean {near}?" in message


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        ("training.steps", "many", "training.steps"),
        ("training.steps", 2.5, "training.steps"),
        ("training.learning_rate", "fast", "training.learning_rate"),
        ("model.channels", 64, "model.channels"),
        ("model.self_conditioning", "yes", "model.self_conditioning"),
        ("data.exclude", ["sub-01"], "data.exclude"),
        ("study", "two words", "study"),
        ("model", 3, "model"),
    ],
)
def test_wrong_types_are_refused_with_key_and_value(place, value, key):
    message = refusal(changed(FITTING, place, value))
    assert f"{key}:" in message
    assert json.dumps(value) in message


@pytest.mark.parametrize(
    "place",
    [
        "training.learning_rate",
        "training.steps",
        "training.lesion_share",
        "diffusion.loss.p_image",
        "preprocess.spacing_mm",
        "slices.n_bins",
    ],
)
@pytest.mark.parametrize("value", [True, False])
def test_booleans_are_refused_as_numbers(place, value):
    assert f"{place}:" in refusal(changed(FITTING, place, value))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("training.learning_rate", 0),
        ("training.learning_rate", -1e-4),
        ("training.ema_decay", 1.0),
        ("training.batch_size", 0),
        ("training.self_conditioning", 1.1),
        ("generation.evaluations", 1),
        ("generation.evaluations", 1001),
        ("generation.tau", 1.0),
        ("preprocess.spacing_mm", 0),
        ("diffusion.timesteps", 3),
        ("diffusion.loss.p_mask", 0.5),
    ],
)
def test_values_outside_their_range_are_refused(place, value):
    message = refusal(changed(FITTING, place, value))
    assert f"{place}:" in message
    assert f"found {json.dumps(value)}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "inf"])
@pytest.mark.parametrize(
    "place", ["training.learning_rate", "preprocess.spacing_mm", "slices.min_lesion_mm2"]
)
def test_numbers_that_are_not_finite_are_refused(place, value):
    assert f"{place}:" in refusal(changed(FITTING, place, value))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (changed(FITTING, "slices.z_range", [5, 32]), ("slices.z_range", "32 slices", "0 to 31")),
        (changed(FITTING, "slices.z_range", [20, 5]), ("slices", "20, 5")),
        (changed(FITTING, "slices.z_range", [5, 7]), ("slices", "n_bins 4")),
        (changed(FITTING, "slices.z_range", "all"), ("slices.z_range", '"all"', "auto")),
        (changed(FITTING, "folds.k", 17), ("folds.k", "17", "16")),
        (changed(FITTING, "folds.k", 1), ("folds", "k 1", "use_split")),
        (changed(FITTING, "preprocess.grid", [30, 32, 32]), ("preprocess.grid", "30", "multiples of 8")),
        (changed(FITTING, "model.patch", 8), ("model.patch", "8")),
        (
            changed(changed(FITTING, "model.patch", 4), "preprocess.grid", [48, 48, 32]),
            ("48", "multiples of 32"),
        ),
        (changed(FITTING, "model.channels", [64, 128]), ("model", "attention has 4", "channels has 2")),
        (changed(FITTING, "model.norm_groups", 48), ("model", "64", "norm_groups 48")),
        (changed(FITTING, "model.head_channels", 96), ("model", "256", "head_channels 96")),
        (changed(FITTING, "training.self_conditioning", 0.5), ("self_conditioning", "0.5", "false")),
        (
            changed(FITTING, "model.self_conditioning", True),
            ("model.self_conditioning is true", "training.self_conditioning is 0.0"),
        ),
        (
            changed(FITTING, "evaluation.extractors", ["resnet"]),
            ("evaluation.extractors", '"resnet"', "alexnet"),
        ),
        (changed(FITTING, "evaluation.extractors", []), ("evaluation.extractors",)),
        (changed(FITTING, "diffusion.prediction", "eps"), ("diffusion.prediction", '"eps"', "epsilon")),
        (changed(FITTING, "variants.b.folds.k", 2), ("variants.b.folds", "model", "training")),
        (changed(FITTING, "variants.b.model", 3), ("variants", "3", "mapping")),
        (changed(FITTING, "variants.b.training.steps", -1), ("variants.b.training.steps", "-1")),
        (changed(FITTING, "variants.b.model.patch", 3), ("variants.b.model.patch", "3")),
        (changed(FITTING, "variants", {}), ("variants",)),
        (changed(FITTING, "variants", {"a/b": {}}), ("variants", "a/b")),
        (changed(FITTING, "data.source", "bids"), ("data.root", "bids")),
        (changed(FITTING, "data.source", "table"), ("data.table", "table")),
        (changed(FITTING, "preprocess.percentiles", [99, 1]), ("preprocess", "99", "1")),
        (changed(FITTING, "study", "../elsewhere"), ("study", "../elsewhere")),
        (
            changed(FITTING, "training.condition_dropout", 0.1),
            ("condition_dropout", "0.1", "model.null_token"),
        ),
        (changed(FITTING, "model.null_token", True), ("null_token", "training.condition_dropout")),
        (changed(FITTING, "generation.guidance", 2.0), ("generation.guidance", "2.0", "model.null_token")),
        (
            changed(FITTING, "generation.acquisition", "T2"),
            ("generation.acquisition", "T2", "model.acquisition"),
        ),
        (
            changed(FITTING, "generation", {"guidance": 2, "guidance_interval": [5, 1]}),
            ("generation", "5", "1", "smaller"),
        ),
        (changed(FITTING, "model.coupling", "twin"), ("model.coupling", "twin", "bottleneck")),
        (changed(FITTING, "model.prior", "cross"), ("model.prior", "cross", "cross_attention")),
        (
            changed(changed(FITTING, "model.coupling", "decoupled"), "model.channels", [32, 64, 64, 96]),
            ("model", "48", "norm_groups 32"),
        ),
        (changed(FITTING, "diffusion.loss.space", "eps"), ("diffusion.loss.space", "eps", "epsilon")),
        (
            {**FITTING, "diffusion": {"prediction": "epsilon", "loss": {"focal_frequency": {"weight": 1}}}},
            ("focal_frequency.below", "epsilon", "0.8"),
        ),
        (
            {
                **FITTING,
                "diffusion": {"prediction": "epsilon", "loss": {"space": "v", "min_snr_gamma": None}},
            },
            ("diffusion.loss.space", "v", "min_snr_gamma"),
        ),
        (
            {
                **FITTING,
                "diffusion": {"timesteps": 100},
                "generation": {"sampler": "ddim_ref", "evaluations": 101},
            },
            ("generation.evaluations", "101", "ddim_ref", "100"),
        ),
        (
            changed(FITTING, "generation", {"sampler": "ddim_ref", "spacing": "log_snr"}),
            ("generation", "log_snr", "ddim_ref"),
        ),
        (changed(FITTING, "diffusion.gaussian_above", 0.5), ("diffusion.gaussian_above", "0.5", "1")),
        (
            changed(FITTING, "diffusion.loss", {"min_snr_gamma": 1, "min_snr_floor": 2}),
            ("diffusion.loss", "min_snr_floor", "min_snr_gamma (1.0)", "2"),
        ),
        (changed(FITTING, "generation.eta", 0.2), ("generation", "eta 0.2", "dpmpp_2m")),
        (
            changed(FITTING, "generation.guidance_interval", [1, 5]),
            ("generation", "guidance_interval", "guidance 1"),
        ),
        (
            {**FITTING, "diffusion": {"loss": {"focal_frequency": {"weight": 1, "patches": 5}}}},
            ("focal_frequency.patches", "32 x 32", "5"),
        ),
        (
            {**FITTING, "diffusion": {"loss": {"wavelet_weights": [4, 4, 4, 4, 4, 4, 1]}}},
            ("diffusion.loss.wavelet_weights", "7 weights", "64 px", "32 x 32"),
        ),
        (
            {**FITTING, "diffusion": {"loss": {"wavelet_weights": [4, 1], "lesion_weight_image": 2}}},
            ("diffusion.loss.lesion_weight_image", "2.0", "wavelet_weights"),
        ),
        (
            changed(FITTING, "training", {"batch_size": 4, "accumulate": 5}),
            ("training.accumulate is 5", "training.batch_size is 4"),
        ),
        (changed(FITTING, "utility.shares", [0.5, 0.333]), ("utility", "0.333", "whole number of percents")),
        (changed(FITTING, "utility.shares", [0.5, 0.5]), ("utility", "duplicate share")),
        (changed(FITTING, "utility.channels", [16, 40]), ("utility.channels", "40", "16")),
        (changed(FITTING, "variants", {"real": {}}), ("variants.real", "another name")),
    ],
)
def test_impossible_combinations_are_refused(values, expected):
    message = refusal(values)
    for part in expected:
        assert part in message


def test_all_problems_are_named_in_one_error():
    message = refusal(changed(changed(FITTING, "training.stepps", 3), "model.patch", 5))
    assert "training.stepps" in message
    assert "model.patch" in message


def test_variants_override_only_the_keys_that_they_set():
    values = changed(FITTING, "variants", {"base": {}, "p2": {"diffusion": {"loss": {"p_image": 2.0}}}})
    values = changed(values, "diffusion", {"prediction": "v", "loss": {"p_mask": 3.0}})
    study = study_from_mapping(values)
    base, other = study.variant("base"), study.variant("p2")
    assert base == study
    assert other.diffusion.loss.p_image == 2.0
    assert other.diffusion.loss.p_mask == 3.0
    assert other.diffusion.prediction == "v"
    unchanged = set(Study.model_fields) - {"diffusion"}
    assert all(getattr(other, section) == getattr(study, section) for section in unchanged)
    with pytest.raises(ConfigError, match="p2"):
        study.variant("absent")


def _all_sections(model=Study, seen=None):
    seen = {} if seen is None else seen
    if model not in seen:
        seen[model] = True
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                _all_sections(field.annotation, seen)
    return list(seen)


@pytest.mark.parametrize("section", _all_sections(), ids=lambda section: section.__name__)
def test_every_field_has_a_description(section):
    assert section.__doc__
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        assert nested or field.description, f"{section.__name__}.{name} has no docstring"


def test_settings_cannot_be_changed_afterwards():
    study = study_from_mapping({})
    with pytest.raises(Exception, match="frozen"):
        study.training.steps = 3


SHIPPED = sorted((Path(__file__).resolve().parents[2] / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path):
    assert load_study(path).variants


@pytest.mark.parametrize("transform", ["rigid", "affine"])
def test_registered_brains_have_an_automatic_z_range_unless_one_is_set(transform):
    registered = {"preprocess": {"registration": {"transform": transform}}}
    assert study_from_mapping(registered).slices.z_range == "auto"
    assert study_from_mapping(registered | {"slices": {"n_bins": 20}}).slices.z_range == "auto"
    assert study_from_mapping(registered | {"slices": {"z_range": [34, 115]}}).slices.z_range == (34, 115)
    assert study_from_mapping({}).slices.z_range == (34, 115)


def test_a_coupling_has_its_own_default_widths():
    study = study_from_mapping(
        changed(FITTING, "variants", {"a": {}, "b": {"model": {"coupling": "independent"}}})
    )
    assert study.variant("a").model.widths == (64, 128, 256, 256)
    other = study.variant("b").model
    assert (other.widths, other.heads, other.groups) == ((48, 96, 180, 180), 20, 12)
    given = study_from_mapping(
        changed(FITTING, "model", {"coupling": "bottleneck", "channels": [24, 24, 24, 24]})
    )
    assert given.model.settings()["channels"] == [24, 24, 24, 24]
    assert given.model.settings()["head_channels"] == 12


def test_acquisitions_are_checked_against_the_participants():
    variants = {"a": {}, "b": {"model": {"acquisition": True}, "generation": {"acquisition": "T2SEL"}}}
    study = study_from_mapping(changed(FITTING, "variants", variants))
    with pytest.raises(ConfigError, match=r"variants\.b.*T2SEL.*mix, T2sel, tse"):
        check_acquisitions(study, {"T2sel", "tse"})
    for known in ({"T2sel"}, {"T2sel", "n/a"}):
        with pytest.raises(ConfigError, match=r"variants\.b: model\.acquisition.*two"):
            check_acquisitions(study, known)
    check_acquisitions(study_from_mapping(FITTING), {"n/a"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"study": "my study"},
            'study: expected letters, digits and _ . - only, with a letter or digit first, found "my study"',
        ),
        (
            {"data": {"entities": {"ses": 1}}},
            'data.entities.ses: expected text, found 1; write it in quotes, as "1" or "01"',
        ),
        (
            {"training": {"steps": "1e5"}},
            'training.steps: expected a whole number, found "1e5" (write 100000)',
        ),
        (
            {"training": {"steps": 1e5}},
            "training.steps: expected a whole number, found 100000.0 (write 100000)",
        ),
        ({"training": {"steps": 2.5}}, "training.steps: expected a whole number, found 2.5"),
        ({"folds": {"use_split": "yes"}}, 'folds.use_split: expected true or false, found "yes"'),
        ({"training": 3}, "training: expected a mapping of keys, found 3"),
        ({"training": {"ema_decay": 1}}, "training.ema_decay: expected a number less than 1, found 1"),
        (
            {"preprocess": {"grid": [250, 160, 160]}},
            "preprocess.grid: slices of 250 x 160 px do not fit variant 'base': patch 1 and "
            "4 levels require multiples of 8; "
            "the next are 256 x 160",
        ),
    ],
)
def test_messages_say_what_to_write(values, message):
    assert refusal(values) == f"config: {message}"


def test_a_hyphen_is_allowed_in_names():
    study = study_from_mapping(FITTING | {"study": "fcd-2024", "variants": {"p-2": {}}})
    assert study.paths.root.name == "fcd-2024" and list(study.variants) == ["p-2"]
