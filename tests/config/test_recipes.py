"""`recipe: published` sets the paper's values where the study sets none."""

import pytest

from slimdiff.config import ConfigError
from slimdiff.config.loading import study_from_mapping
from slimdiff.config.recipes import PUBLISHED
from slimdiff.config.study import Study


def leaves(values, path=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def at(study, path):
    for name in path:
        study = getattr(study, name)
    return study


def test_it_sets_every_value_of_the_recipe():
    study = study_from_mapping({"recipe": "published"})
    for path, value in leaves(PUBLISHED):
        assert at(study, path) == value, path


def test_it_lists_only_values_that_are_not_the_default():
    for path, value in leaves(PUBLISHED):
        assert at(Study(), path) != value, path


def test_the_study_s_own_values_win_key_by_key():
    study = study_from_mapping({"recipe": "published", "diffusion": {"loss": {"p_mask": 2.5}}})
    assert study.diffusion.loss.p_mask == 2.5
    assert study.model.gaussian_components == 0


def test_a_variant_changes_the_recipe_s_values():
    study = study_from_mapping(
        {"recipe": "published", "variants": {"base": {}, "own": {"model": {"patch": 4}}}}
    )
    assert study.variant("own").model.patch == 4
    assert study.variant("own").model.gaussian_components == 0


def test_another_recipe_is_refused():
    with pytest.raises(ConfigError, match="recipe"):
        study_from_mapping({"recipe": "papers"})
    with pytest.raises(ConfigError, match="recipe"):
        study_from_mapping({"recipe": ["published"]})


def test_independent_networks_refuse_the_gaussian_model():
    with pytest.raises(
        ConfigError, match=r"gaussian_components: expected 0 or null with coupling independent, found 5"
    ):
        study_from_mapping({"model": {"coupling": "independent", "gaussian_components": 5}})
    assert study_from_mapping({"model": {"coupling": "independent"}}).model.gaussian == 0
