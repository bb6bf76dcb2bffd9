"""A stage gets the keys that it declares, and reading any other key is an error by name."""

import json

import pytest

from slimdiff import stages
from slimdiff.config import Study, load_study, study_from_mapping
from slimdiff.config.base import Section
from slimdiff.config.needs import EVERYTHING, UndeclaredKey

FITTING = {"preprocess": {"grid": [32, 32, 32]}, "slices": {"z_range": [5, 20], "n_bins": 4}}
WITH_STUDY = [name for name in stages.names() if stages.module_of(name).NEEDS is not None]
PARTIAL = [name for name in WITH_STUDY if stages.module_of(name).NEEDS != EVERYTHING]


def leaves(model: type[Section], prefix: str = "") -> list[str]:
    """Dotted names of all keys of a section."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Section)
        found += leaves(kind, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return found


def read(study, key: str):
    for name in key.split("."):
        study = study[name] if isinstance(study, dict) else getattr(study, name)
    return study


def declared(stage: str, key: str) -> bool:
    needs = ("study", "results_dir", *stages.module_of(stage).NEEDS)
    # `quality.accept.flag` gives the mapping, restricted to this flag.
    return any(key == need or key.startswith(f"{need}.") or need.startswith(f"{key}.") for need in needs)


@pytest.mark.parametrize("stage", PARTIAL)
def test_an_undeclared_key_is_refused_by_name_and_a_declared_one_has_the_users_value(stage):
    study = study_from_mapping({**FITTING, "quality": {"accept": {"lesion_outside_brain": ["sub-2"]}}})
    seen = study.only(stages.module_of(stage).NEEDS, stage)
    refused = 0
    for key in leaves(Study):
        if declared(stage, key):
            assert read(seen, key) == read(study, key) or key == "quality.accept", key
            continue
        refused += 1
        module = stages.module_of(stage).__file__.rpartition("/")[2]
        with pytest.raises(UndeclaredKey, match=rf"stage {stage} reads .*; add it to NEEDS in .*/{module}"):
            read(seen, key)
    assert refused


def test_a_key_that_was_not_passed_to_a_stage_never_returns_its_default():
    """Without this check the metrics stage read the default 46.875 for a user's `min_lesion_mm2: 0`."""
    study = study_from_mapping({**FITTING, "slices": {**FITTING["slices"], "min_lesion_mm2": 0.0}})
    again = load_study(stages.config_of("metrics", study))
    with pytest.raises(UndeclaredKey, match="stage metrics reads slices.min_lesion_mm2"):
        _ = again.only(stages.needs("metrics", study), "metrics").slices.min_lesion_mm2


@pytest.mark.parametrize("stage", PARTIAL)
def test_the_json_of_a_stage_has_exactly_its_keys_with_the_users_values(stage):
    values = {**FITTING, "training": {"steps": 9}, "generation": {"seed": 1}, "folds": {"k": 2}}
    study = study_from_mapping({**values, "variants": {"base": {}, "v": {"diffusion": {"prediction": "v"}}}})
    text = stages.config_of(stage, study)
    seen = load_study(text).only(stages.needs(stage, study), stage)
    for key in leaves(Study):
        if any(key == need or key.startswith(f"{need}.") for need in stages.needs(stage, study)):
            expected = read(study, key)
            assert read(seen, key) == ({name: {} for name in expected} if key == "variants" else expected), (
                key
            )
    assert seen.paths.root == study.paths.root


def test_volumes_have_names_only_in_stages_that_declare_the_modality():
    """Else a T1w study's stage could look for FLAIR."""
    study = study_from_mapping({"data": {"modality": "T1w"}})
    for stage in ("preprocess", "cache", "quality", "export"):
        paths = load_study(stages.config_of(stage, study)).only(stages.needs(stage, study), stage).paths
        assert paths.volume("a", "image").name == "a_T1w.nii.gz"
    with pytest.raises(LookupError, match="MODALITY"):
        study.only(stages.needs("kfold", study), "kfold").paths.volume("a", "image")


@pytest.mark.parametrize("stage", WITH_STUDY)
def test_declared_keys_exist(stage):
    keys = leaves(Study)
    for need in stages.module_of(stage).NEEDS:
        assert (
            need == "*"
            or any(key == need or key.startswith(f"{need}.") for key in keys)
            # One flag of a mapping.
            or need.rpartition(".")[0] == "quality.accept"
        ), need


def test_every_section_is_read_by_a_stage():
    sections = {key.partition(".")[0] for key in leaves(Study) if "." in key}
    assert sections == {
        need.partition(".")[0] for stage in PARTIAL for need in stages.module_of(stage).NEEDS
    } - {"variants"}


def stages_of_a_change(section: str, change: dict, base: dict | None = None) -> set[str]:
    base = base or FITTING
    before, after = (
        study_from_mapping({**base, section: {**base.get(section, {}), **values}}) for values in ({}, change)
    )
    with_rule = [stage for stage in PARTIAL if hasattr(stages.module_of(stage), "outputs")]
    return {stage for stage in with_rule if stages.config_of(stage, before) != stages.config_of(stage, after)}


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("data", {"phantom": {"seed": 5}}, {"phantom", "participants"}),
        ("quality", {"max_excluded": 2}, {"participants", "kfold"}),
        ("preprocess", {"percentiles": [1.0, 99.0]}, {"preprocess", "export"}),
        ("preprocess", {"harmonise": "histogram"}, {"cache", "export"}),
        ("slices", {"min_tissue": 0.1}, {"cache"}),
        ("folds", {"seed": 4}, {"kfold"}),
        ("model", {"res_blocks": 1}, {"train"}),
        ("diffusion", {"prediction": "v"}, {"train"}),
        ("training", {"steps": 7}, {"train"}),
        ("generation", {"seed": 3}, {"generate"}),
        ("report", {"dpi": 90}, {"figures", "tables"}),
        ("report", {"notice": "x"}, {"figures", "tables", "quality", "export"}),
        ("export", {"without_suspects": True}, {"export"}),
        ("evaluation", {"lpips_pairs": 7}, {"metrics"}),
        ("evaluation", {"bootstrap": 7}, {"metrics", "utility"}),
        ("evaluation", {"min_component_mm2": 3.0}, {"metrics", "segmenter", "utility", "tables"}),
        ("utility", {"synthetic_per_real": 1.0}, {"utility"}),
        ("utility", {"steps": 7}, {"segmenter", "utility"}),
        ("utility", {"enabled": False}, {"utility", "compare", "figures", "tables"}),
    ],
)
def test_a_changed_key_reruns_the_stages_that_read_it(section, change, expected):
    assert stages_of_a_change(section, change) == expected


LOGGED = {"preview_every": 7, "log_every": 7, "save_every": 7, "tensorboard": False, "wandb_project": "x"}


@pytest.mark.parametrize(("key", "value"), [*LOGGED.items(), ("keep_state", False)])
@pytest.mark.parametrize("of", ["study", "variant"])
def test_keys_that_only_log_reach_the_training_and_are_not_compared(key, value, of):
    changed = {"training": {key: value}}
    variants = {"base": changed if of == "variant" else {}, "other": {"training": {"steps": 7}}}
    before = study_from_mapping({**FITTING, "variants": {**variants, "base": {}}})
    after = study_from_mapping({**FITTING, **(changed if of == "study" else {}), "variants": variants})
    texts = [stages.config_of("train", study, "base") for study in (before, after)]
    assert getattr(load_study(texts[1]).variant("base").training, key) == value
    assert texts[0] != texts[1]
    compared = [stages.compared_config_of("train", study, "base") for study in (before, after)]
    assert compared[0] == compared[1]
    assert stages.compared_config_of("train", after, "other") != compared[1]


@pytest.mark.parametrize("stage", [name for name in PARTIAL if name != "train"])
def test_of_other_stages_every_key_is_compared(stage):
    study = study_from_mapping(FITTING)
    assert stages.compared_config_of(stage, study) == stages.config_of(stage, study)


def test_the_download_url_does_not_affect_the_participants():
    base = {**FITTING, "data": {"source": "bids", "root": "d"}}
    assert "participants" in stages_of_a_change("data", {"fetch": {"dataset": "ds004199"}}, base)
    base["data"]["fetch"] = {"dataset": "ds004199"}
    other = {"fetch": {"dataset": "ds004199", "base_url": "https://mirror.example/ds"}}
    assert stages_of_a_change("data", other, base) == {"fetch"}


def test_the_json_of_a_variant_has_its_overrides_applied():
    variants = {"base": {}, "v": {"diffusion": {"prediction": "v"}}, "w": {"model": {"res_blocks": 1}}}
    study = study_from_mapping({**FITTING, "variants": variants})
    again = load_study(stages.config_of("train", study, "v"))
    assert list(again.variants) == ["v"]
    assert again.variant("v").diffusion == study.variant("v").diffusion
    # A variant of a restricted study is restricted too.
    seen = again.only(stages.module_of("train").NEEDS, "train").variant("v")
    assert seen.diffusion.prediction == "v"
    with pytest.raises(UndeclaredKey, match="stage train reads generation"):
        _ = seen.generation.seed
    # A change in one variant does not affect another.
    later = study_from_mapping({**FITTING, "variants": {**variants, "w": {"model": {"res_blocks": 3}}}})
    assert stages.config_of("train", later, "v") == stages.config_of("train", study, "v")
    assert stages.config_of("train", later, "w") != stages.config_of("train", study, "w")


def test_preprocessing_reads_only_the_quality_keys_that_it_uses():
    """Accepting thick slices does not rerun preprocessing."""

    def of(**changes) -> dict:
        return json.loads(stages.config_of("preprocess", study_from_mapping(FITTING | changes)))["quality"]

    accept = {"thick_slices": ["sub-1"], "lesion_outside_brain": ["sub-2"]}
    brain = {**FITTING["preprocess"], "brain": {"method": "deepbet"}}
    quality = {"accept": accept, "max_lesion_outside": 0.7, "max_spacing_mm": 5, "policy": "exclude"}
    assert of(quality=quality) == {"policy": "exclude"}
    assert of(quality=quality, preprocess=brain) == {
        "policy": "exclude",
        "max_lesion_outside": 0.7,
        "accept": {"lesion_outside_brain": ["sub-2"]},
    }
