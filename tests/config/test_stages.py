"""A stage gets its own part of a study, and nothing else."""

import json

import pytest

from slimdiff.config import (
    Study,
    load_study,
    stage_config,
    study_from_mapping,
)
from slimdiff.config.base import Section
from slimdiff.config.stages import STAGE_KEYS, STAGE_SECTIONS
from slimdiff.config.utility import UtilityConfig

FITTING = {"preprocess": {"grid": [32, 32, 32]}, "slices": {"z_range": [5, 20], "n_bins": 4}}


# One change in every section, away from the defaults and valid.
CHANGES = {
    "data": {"phantom": {"seed": 5}},
    "quality": {"max_excluded": 2},
    "preprocess": {"percentiles": [1.0, 99.0]},
    "slices": {"min_tissue": 0.1},
    "folds": {"seed": 4},
    "priors": {"threshold": 0.3},
    "model": {"res_blocks": 1},
    "diffusion": {"prediction": "v"},
    "training": {"steps": 7},
    "generation": {"seed": 3},
    "evaluation": {"tau": 0.1},
    "report": {"dpi": 90},
    "export": {"tau": 0.1},
    "utility": {"steps": 7},
}


@pytest.mark.parametrize("section", CHANGES)
@pytest.mark.parametrize("stage", STAGE_SECTIONS)
def test_a_stage_sees_its_own_sections_only(stage, section):
    before = study_from_mapping(FITTING)
    merged = {**FITTING, section: {**FITTING.get(section, {}), **CHANGES[section]}}
    after = study_from_mapping(merged)
    same = stage_config(before, stage) == stage_config(after, stage)
    keys = STAGE_KEYS.get(stage, {}).get(section, set(CHANGES[section]))
    assert same == (section not in STAGE_SECTIONS[stage] or not set(CHANGES[section]) & set(keys))


def test_how_files_are_fetched_makes_no_difference_to_who_takes_part():
    fetched = [
        {"data": {"source": "bids", "root": "d", "fetch": fetch}}
        for fetch in ({"dataset": "ds004199"}, {"dataset": "ds004199", "connections": 3, "t1w": True}, {})
    ]
    same, other, none = (
        stage_config(study_from_mapping(FITTING | values), "participants") for values in fetched
    )
    assert same == other != none


def test_every_section_belongs_to_a_stage():
    sections = {
        name
        for name, field in Study.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    assert sections == set(CHANGES)
    assert sections == {section for part in STAGE_SECTIONS.values() for section in part}


def test_keys_of_a_stage_are_keys_of_its_sections():
    for stage, sections in STAGE_KEYS.items():
        for section, keys in sections.items():
            assert section in STAGE_SECTIONS[stage]
            assert set(keys) <= set(Study.model_fields[section].annotation.model_fields)
    # Segmenters of real slices see everything but what concerns samples.
    hidden = set(UtilityConfig.model_fields) - set(STAGE_KEYS["segmenter"]["utility"])
    assert hidden == {"enabled", "synthetic_per_real"}


@pytest.mark.parametrize(
    ("section", "change", "stages"),
    [
        ("evaluation", {"lpips_pairs": 7}, {"metrics"}),
        ("evaluation", {"bootstrap": 7}, {"metrics", "utility"}),
        ("evaluation", {"min_component_mm2": 3.0}, {"metrics", "segmenter", "utility"}),
        ("utility", {"synthetic_per_real": 1.0}, {"utility"}),
        ("utility", {"steps": 7}, {"segmenter", "utility"}),
    ],
)
def test_a_key_makes_again_what_looks_at_it(section, change, stages):
    before, after = study_from_mapping(FITTING), study_from_mapping({**FITTING, section: change})
    found = {stage for stage in STAGE_SECTIONS if stage_config(before, stage) != stage_config(after, stage)}
    assert found == stages


@pytest.mark.parametrize("stage", STAGE_SECTIONS)
def test_inline_json_of_a_stage_gives_the_stage_back(stage):
    values = {**FITTING, "variants": {"base": {}, "v": {"diffusion": {"prediction": "v"}}}}
    study = study_from_mapping({**values, "training": {"steps": 9}, "generation": {"seed": 1}})
    again = load_study(stage_config(study, stage))
    for section in set(STAGE_SECTIONS[stage]):
        assert getattr(again, section) == getattr(study, section)
    assert again.paths == study.paths


def test_inline_json_of_a_variant_has_its_overrides_resolved():
    variants = {"base": {}, "v": {"diffusion": {"prediction": "v"}}, "w": {"model": {"res_blocks": 1}}}
    study = study_from_mapping({**FITTING, "variants": variants})
    again = load_study(stage_config(study, "train", "v"))
    assert list(again.variants) == ["v"]
    assert again.variant("v").diffusion == study.variant("v").diffusion
    # A change in one variant concerns no other.
    variants = {**variants, "w": {"model": {"res_blocks": 3}}}
    later = study_from_mapping({**FITTING, "variants": variants})
    assert stage_config(later, "train", "v") == stage_config(study, "train", "v")
    assert stage_config(later, "train", "w") != stage_config(study, "train", "w")


def test_preprocessing_knows_of_quality_what_it_judges_by():
    """Whoever accepts thick slices does not preprocess everybody again."""

    def of(**changes) -> dict:
        return json.loads(stage_config(study_from_mapping(FITTING | changes), "preprocess"))["quality"]

    accept = {"thick_slices": ["sub-1"], "lesion_outside_brain": ["sub-2"]}
    brain = {**FITTING["preprocess"], "brain": {"method": "deepbet"}}
    quality = {"accept": accept, "max_lesion_outside": 0.7, "max_spacing_mm": 5, "policy": "exclude"}
    assert of(quality=quality) == {"policy": "exclude"}
    assert of(quality=quality, preprocess=brain) == {
        "policy": "exclude",
        "max_lesion_outside": 0.7,
        "accept": {"lesion_outside_brain": ["sub-2"]},
    }
