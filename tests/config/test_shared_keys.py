"""One seed, device and tau of a study, which sections override; a report's title."""

import pytest

from slimdiff import stages
from slimdiff.config import load_study, needs_json, study_from_mapping
from slimdiff.config.export import ExportConfig
from slimdiff.config.folds import FoldsConfig
from slimdiff.config.generation import GenerationConfig
from slimdiff.config.training import TrainingConfig

FITTING = {"preprocess": {"grid": [32, 32, 32]}, "slices": {"z_range": [5, 20], "n_bins": 4}}
SEEDS = ("data.phantom", "folds", "training", "generation", "evaluation", "utility")
DEVICES = ("training", "generation", "utility")
TAUS = ("generation", "evaluation", "export")
EVERY = (
    [(p, "seed", 7) for p in SEEDS]
    + [(p, "device", "cpu") for p in DEVICES]
    + [(p, "tau", 0.25) for p in TAUS]
)


def section_of(study, path: str):
    for name in path.split("."):
        study = getattr(study, name)
    return study


def setting(path: str, key: str, value) -> dict:
    values = {key: value}
    for name in reversed(path.split(".")):
        values = {name: values}
    return FITTING | values


@pytest.mark.parametrize(("path", "key", "value"), EVERY)
def test_a_section_has_the_value_of_the_study_unless_it_sets_its_own(path, key, value):
    default = getattr(section_of(study_from_mapping(FITTING), path), key)
    assert default == {"seed": 0, "device": "auto", "tau": 0.0}[key]
    assert getattr(section_of(study_from_mapping(FITTING | {key: value}), path), key) == value
    # null is the same as no value.
    assert (
        getattr(section_of(study_from_mapping(setting(path, key, None) | {key: value}), path), key) == value
    )
    other = {"seed": 3, "device": "cuda", "tau": -0.5}[key]
    assert (
        getattr(section_of(study_from_mapping(setting(path, key, other) | {key: value}), path), key) == other
    )
    # An explicit default counts as a value.
    assert (
        getattr(section_of(study_from_mapping(setting(path, key, default) | {key: value}), path), key)
        == default
    )


def test_metrics_stay_on_the_cpu_unless_their_own_device_is_set():
    assert study_from_mapping(FITTING | {"device": "cuda"}).evaluation.device == "cpu"


@pytest.mark.parametrize("section", [GenerationConfig, TrainingConfig, ExportConfig, FoldsConfig])
def test_a_section_without_a_study_has_the_defaults(section):
    for made in (
        section(),
        section.model_validate(
            {key: None for key in ("seed", "device", "tau") if key in section.model_fields}
        ),
    ):
        for key, value in {"seed": 0, "device": "auto", "tau": 0.0}.items():
            if key in section.model_fields:
                assert getattr(made, key) == value
                assert key not in made.model_fields_set
    assert section() == section()


def test_a_variant_overrides_or_inherits_and_leaves_the_rest_unset():
    values = {"seed": 5, "tau": 0.1, "training": {"seed": 1}, "generation": {"eta": 0.0}}
    values["variants"] = {
        "base": {},
        "other": {"training": {"seed": 2}, "generation": {"tau": 0.3}},
        "inherits": {"training": {"seed": None}},
    }
    study = study_from_mapping(FITTING | values)
    base, other, inherits = (study.variant(name) for name in values["variants"])
    assert base == study
    assert (base.training.seed, other.training.seed, inherits.training.seed) == (1, 2, 5)
    assert (base.generation.tau, other.generation.tau) == (0.1, 0.3)
    assert {part.generation.seed for part in (base, other, inherits)} == {5}
    # Keys that the study does not set stay unset in its variants, so that `--mask` can choose a sampler.
    assert base.generation.model_fields_set == {"eta"}
    assert other.generation.model_fields_set == {"eta", "tau"}


@pytest.mark.parametrize(
    "stage", [name for name in stages.names() if stages.module_of(name).NEEDS is not None]
)
def test_a_stage_gets_the_value_of_the_study_instead_of_null(stage):
    values = {"seed": 5, "tau": 0.1, "device": "cpu", "folds": {"seed": 6}}
    study = study_from_mapping(FITTING | values)
    needs = stages.needs(stage, study)
    again = load_study(needs_json(study, needs, "base"))
    for path, key, _ in EVERY:
        dotted = f"{path}.{key}"
        if any(need == "*" or dotted == need or dotted.startswith(f"{need}.") for need in needs):
            assert getattr(section_of(again, path), key) == getattr(section_of(study, path), key), dotted


def test_the_title_of_a_report_defaults_to_the_study():
    assert study_from_mapping({"study": "fcd-2024"}).report.title == "fcd-2024"
    assert (
        study_from_mapping({"study": "fcd", "report": {"title": "Our cohort"}}).report.title == "Our cohort"
    )
