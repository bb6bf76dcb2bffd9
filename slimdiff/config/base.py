"""What every section of a study shares: strict types, unknown keys refused, values that follow the study's."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from slimdiff.redaction import redacted


class Section(BaseModel):
    """One section of a study: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


WITHOUT_A_STUDY = {"seed": 0, "device": "auto", "tau": 0.0}
"""Defaults of a study's seed, device and tau, and values of a section's own where there is no study."""


class InheritingSection(Section):
    """A section whose seed, device and tau follow the study's where they are null; `Study` sets them by `inherit`."""

    @model_validator(mode="after")
    def _without_a_study(self):
        for key, value in WITHOUT_A_STUDY.items():
            if key in type(self).model_fields and getattr(self, key) is None:
                self.__dict__[key] = value
                # An explicit null is the same as no value: `inherit` replaces both.
                self.__pydantic_fields_set__.discard(key)
        return self


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overrides`, key by key at every level."""
    result = dict(base)
    for key, value in overrides.items():
        nested = isinstance(result.get(key), Mapping) and isinstance(value, Mapping)
        result[key] = merged(result[key], value) if nested else value
    return result


def inherit(section: Section, values: dict[str, Any]) -> Section:
    """The section, and the sections in it, with these values for keys that allow null and have no value of their
    own."""
    changes: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            replaced = inherit(value, values)
            if replaced is not value:
                changes[name] = replaced
        elif name in values and field.default is None and name not in section.model_fields_set:
            changes[name] = values[name]
    if not changes:
        return section
    copy = section.model_copy(update=changes)
    copy.__pydantic_fields_set__.intersection_update(section.model_fields_set)
    return copy


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-4 as text, not as a number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Tau = Annotated[Real, Field(gt=-1, lt=1)]
Device = Literal["auto", "cpu", "cuda", "mps"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
WordOnly = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
ShownText = Annotated[str, AfterValidator(redacted)]
"""Text that pages, figures and exports show."""
FOLDER_PATTERN = r"^([^{}<>-]|\$\{\w+\})([^{}<>]|\$\{\w+\})*$"
VARIABLE = re.compile(r"\$(?:(\w+)|\{([^{}]*)\})", re.ASCII)


def expanded_path(value: Any) -> Any:
    """A path with `~` and environment variables ($SCRATCH, ${SCRATCH}) replaced; values that are no text as they are.

    Raises ValueError with the name of a variable that is not set or empty, or of an unknown user.
    """
    if not isinstance(value, str):
        return value
    try:
        path = str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        user = value.partition("/")[0]
        raise ValueError(f"no user {user!r}; write the folder, or ./~ for a folder of this name") from None

    def of(found: re.Match) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            state = "empty" if name in os.environ else "not set"
            raise ValueError(f"the environment variable {name} is {state}; set it, or write the folder")
        return os.environ[name]

    return VARIABLE.sub(of, path)


PathText = Annotated[str, BeforeValidator(expanded_path)]
Folder = Annotated[str, Field(pattern=FOLDER_PATTERN), BeforeValidator(expanded_path)]

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]*$": "expected letters, digits and _ . - only, with a letter or digit first",
    r"^[A-Za-z0-9]+$": "expected letters and digits only",
    FOLDER_PATTERN: "expected a path without { } < and >, and without - at its begin",
}
"""What each pattern allows, in words."""

EXPECTED = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping of keys",
    "model_type": "expected a mapping of keys",
    "greater_than": "expected a number greater than {gt}",
    "greater_than_equal": "expected a number of at least {ge}",
    "less_than": "expected a number less than {lt}",
    "less_than_equal": "expected a number of at most {le}",
}
"""What pydantic's types of error ask for, in words."""

OLD_KEYS = {
    "data.phantom.voxel_mm": "the volumes have voxels of 2 mm; delete it",
    "data.fetch.t1w": "T1w images are downloaded if data.image_suffix is T1w; delete it",
    "data.fetch.connections": "it is fixed at 8; delete it",
    "data.fetch.attempts": "it is fixed at 5; delete it",
    "data.fetch.wait_s": "it is fixed at 1 s, doubled with each further attempt; delete it",
    "data.fetch.timeout_s": "it is fixed at 60 s; delete it",
    "preprocess.bias_field.shrink": "it is fixed at 4; delete it",
    "preprocess.bias_field.iterations": "they are fixed at 50, 50, 30, 20; delete it",
    "preprocess.brain.threshold": "it is fixed at 0.5, deepbet's own; use dilate_mm to grow or shrink the brain",
    "preprocess.registration.sampling": "it is fixed at 0.2; delete it",
    "preprocess.registration.seed": "it is fixed; delete it",
    "slices.background_level": "it is fixed at -0.9, the paper's; use min_tissue to keep more or fewer slices",
    "priors": "the z-bin priors have no settings (constants in slimdiff/data/priors.py); delete the section",
    "diffusion.loss.perceptual.net": "it is fixed at vgg, the published code's; delete it",
    "diffusion.loss.perceptual.below": "it is fixed at 0.5, the published code's; delete it",
    "training.final_learning_rate": "it is 0, or with training.rate_decay: cosine the paper's 1e-6; delete it",
    "training.weight_decay": "it is fixed at 1e-4, the paper's; delete it",
    "training.gradient_clip": "it is fixed at 1.0, the paper's; delete it",
    "training.slices_on": "slices are kept on the device if they fit into half of its free memory; delete it",
    "training.augmentation.max_rotation_deg": "it is fixed at 8 degrees; delete it",
    "training.augmentation.max_scale": "it is fixed at 0.08; delete it",
    "training.augmentation.max_shift_mm": "it is fixed at 5 mm; delete it",
    "training.augmentation.max_log_gamma": "it is fixed at 0.2; delete it",
    "training.augmentation.max_bias": "it is fixed at 0.2; delete it",
    "training.validation.slices": "it is fixed at 256; delete it",
    "training.validation.extractor": "it is fixed at alexnet; delete it",
    "evaluation.subsets": "it is fixed at 100; delete it",
    "evaluation.bootstrap_slow": "it is fixed at 100, or bootstrap if that is smaller; delete it",
    "evaluation.permutations": "it is fixed at 500; delete it",
    "report.columns_per_bin": "it is fixed at 2; delete it",
    "report.nearest_pairs": "it is fixed at 8; delete it",
    "utility.members": "a segmenter is one network; delete it",
}
"""Keys of earlier versions: what an error says after "this key no longer exists"."""

SHOWN = 60
"""Longest value in a message, in characters."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, value and what is allowed."""


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def key_path(location: Sequence[str | int]) -> str:
    """Keys and indices as one writes them: `samples[2].zbin`."""
    text = ""
    for part in location:
        key = part if str(part).isprintable() else json.dumps(part)
        text += f"[{key}]" if isinstance(part, int) else f".{key}"
    return text.removeprefix(".")


def _keys_at(model: type[Section], location: Sequence[str | int]) -> list[str]:
    """The keys that a section, or a list of sections, allows at a place in it."""
    for key in location:
        if isinstance(key, str):
            field = model.model_fields.get(key)
            annotation = field.annotation if field else None
            model = next(iter(get_args(annotation)), annotation)
            if not (isinstance(model, type) and issubclass(model, Section)):
                return []
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _unknown(key: str, last: str, allowed: Sequence[str]) -> str:
    """The message of an unknown key: what replaces it, or the nearest one that is allowed."""
    parts = key.split(".")
    # A variant's overrides have the keys of a study.
    old = OLD_KEYS.get(".".join(parts[2:] if parts[0] == "variants" else parts))
    if old:
        return f"this key no longer exists: {old}"
    near = difflib.get_close_matches(last, allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"unknown key{hint} Allowed here: {', '.join(allowed)}"


def _hint(kind: str, value: Any) -> str:
    """How to write a value of the wrong type, where it can be guessed."""
    if kind in ("int_type", "int_from_float") and isinstance(value, (str, float)):
        try:
            number = float(value)
        except ValueError:
            return ""
        return f" (write {int(number)})" if number.is_integer() else ""
    if kind == "string_type" and isinstance(value, (int, float)):
        return (
            f'; write it in quotes, as "{value}" or "0{value}"'
            if type(value) is int
            else "; write it in quotes"
        )
    return ""


def explain(error: ValidationError, model: type[Section], prefix: str = "") -> str:
    """One line per problem, each with its key. prefix: the key of the study that holds the model."""
    lines = []
    for problem in error.errors():
        # Members of a union append their own name to the place; the reader knows none of them.
        *above, last = problem["loc"] or [""]
        kind, value = problem["type"], problem["input"]
        location = [part for part in above if "[" not in str(part)]
        location += [last] if kind == "extra_forbidden" or "[" not in str(last) else []
        key = key_path([part for part in (prefix, *location) if part != ""])
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        context = problem.get("ctx", {})
        if kind in EXPECTED:
            message = EXPECTED[kind].format(**context)
        elif kind == "string_pattern_mismatch":
            message = PATTERNS.get(context["pattern"], message)
        if kind == "extra_forbidden":
            message = _unknown(key, str(last), _keys_at(model, location[:-1]))
        elif kind == "missing":
            message = "this key is required, but missing"
        elif message.startswith("expected"):
            message += f", found {shown(value)}{_hint(kind, value)}"
        elif not isinstance(value, dict):
            message += f" (found {shown(value)})"
        lines.append(f"{key}: {message}" if key else message)
    return "\n".join(dict.fromkeys(lines))
