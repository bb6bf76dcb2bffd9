"""What every section of a study's configuration shares: strict types, unknown keys refused."""

import difflib
import json
from collections.abc import Sequence
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


class Section(BaseModel):
    """One section of a study: immutable, strictly typed, with no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-4 as a string; nobody who writes it means one.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]
SHOWN = 60


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, value and what is allowed."""


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def place(location: Sequence[str | int]) -> str:
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


def explain(error: ValidationError, model: type[Section], prefix: str = "") -> str:
    """One line a problem, each with its key. prefix: the key of the study that holds the model."""
    lines = []
    for problem in error.errors():
        # Members of a union append their own name to the place; the reader knows none of them.
        *above, last = problem["loc"] or [""]
        unknown = problem["type"] == "extra_forbidden"
        location = [part for part in above if "[" not in str(part)]
        location += [last] if unknown or "[" not in str(last) else []
        key = place([part for part in (prefix, *location) if part != ""])
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        if unknown:
            allowed = _keys_at(model, location[:-1])
            near = difflib.get_close_matches(str(last), allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            message = f"unknown key{hint} Allowed here: {', '.join(allowed)}"
        elif problem["type"] == "missing":
            message = "this key is required, but missing"
        elif message.startswith("expected"):
            message += f", found {shown(problem['input'])}"
        elif not isinstance(problem["input"], dict):
            message += f" (found {shown(problem['input'])})"
        lines.append(f"{key}: {message}" if key else message)
    return "\n".join(dict.fromkeys(lines))
