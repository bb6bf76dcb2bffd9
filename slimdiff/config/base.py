"""What every section of a study's configuration shares: strict types, unknown keys refused."""

import difflib
import json
from typing import Annotated, Any

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


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, value and what is allowed."""


def _fields_at(model: type[Section], location: tuple) -> dict:
    for key in location:
        field = model.model_fields.get(key) if isinstance(key, str) else None
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        ):
            return {}
        model = field.annotation
    return model.model_fields


def explain(error: ValidationError, model: type[Section], prefix: str = "") -> str:
    """One line a problem. prefix: where in the study the model stands."""
    lines = []
    for problem in error.errors():
        # Members of a union append their own name to the place; the reader knows none of them.
        location = [str(part) for part in problem["loc"] if "[" not in str(part)]
        key = ".".join([part for part in (prefix, *location) if part])
        if problem["type"] == "extra_forbidden":
            allowed = sorted(_fields_at(model, problem["loc"][:-1]))
            near = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            lines.append(f"{key}: unknown key{hint} Allowed here: {', '.join(allowed)}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = "" if isinstance(problem["input"], dict) else f" (found {json.dumps(problem['input'])})"
            lines.append(f"{key}: {message}{found}" if key else message)
    return "\n".join(dict.fromkeys(lines))
