"""A configuration that cannot be used, and pydantic's findings in words: key, what was found, what is allowed."""

import difflib
import json

from pydantic import ValidationError

from slimdiff.config.base import Section


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
