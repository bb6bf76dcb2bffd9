"""The part of a study that each stage needs: a rule passes no more, so that a change makes no other stage again."""

import json

from slimdiff.config.study import Study

# What each stage receives; a change elsewhere does not make it again.
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "phantom": ("data",),
    "fetch": ("data",),
    "participants": ("data", "quality"),
    "preprocess": ("data", "preprocess", "quality"),
    "quality_sheet": ("report",),
    "cache": ("slices",),
    "kfold": ("folds", "quality"),
    "priors": ("priors",),
    "train": ("model", "diffusion", "training"),
    "generate": ("generation",),
    "metrics": ("evaluation",),
    "figures": ("report",),
    "export": ("preprocess", "export"),
    "segmenter": ("utility", "evaluation"),
    "utility": ("utility", "evaluation"),
}

# Where a stage needs only some keys of a section: a change of the others does not make it again.
STAGE_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "fetch": {"data": ("source", "root", "fetch")},
    # What a mask's values and grid mean; `source`, because it has a say in that.
    "preprocess": {
        "data": ("source", "lesion_labels", "empty_mask", "mask_grid"),
        "quality": ("policy", "max_lesion_outside", "accept"),
    },
    "kfold": {"quality": ("policy", "max_excluded")},
    "quality_sheet": {"report": ("title", "notice")},
    "segmenter": {
        "utility": (
            "shares",
            "channels",
            "patch",
            "members",
            "steps",
            "batch_size",
            "learning_rate",
            "device",
            "seed",
        ),
        "evaluation": ("min_component_mm2",),
    },
    "utility": {"evaluation": ("tau", "min_component_mm2", "bootstrap", "seed")},
}


def stage_config(study: Study, stage: str, variant: str | None = None) -> str:
    """The JSON that a rule passes to its command: the study's name and the sections of that stage.

    The variant's overrides are resolved, so that a change in one variant concerns that variant only.
    """
    resolved = study.variant(variant) if variant else study
    values = {"study": study.study, "results_dir": study.results_dir}
    for section in STAGE_SECTIONS[stage]:
        keys = STAGE_KEYS.get(stage, {}).get(section)
        own = getattr(resolved, section)
        values[section] = own.model_dump(mode="json", exclude_defaults=True, include=keys and set(keys))
    if variant:
        values["variants"] = {variant: {}}
    if stage == "phantom":
        values["data"] = {"phantom": study.data.phantom.model_dump(mode="json", exclude_defaults=True)}
    if stage == "preprocess":
        # Only against an extracted brain is the lesion judged here; of what was accepted nothing else counts.
        extracted = study.preprocess.brain.method != "none"
        names = study.quality.accept.get("lesion_outside_brain") if extracted else None
        values["quality"].pop("accept", None)
        if not extracted:
            values["quality"].pop("max_lesion_outside", None)
        if names is not None:
            values["quality"]["accept"] = {"lesion_outside_brain": names}
    if stage == "participants":
        # How the files come makes no difference to who takes part.
        dataset = values["data"].pop("fetch", {}).get("dataset")
        values["data"] |= {"fetch": {"dataset": dataset}} if dataset else {}
    return json.dumps(values, sort_keys=True)
