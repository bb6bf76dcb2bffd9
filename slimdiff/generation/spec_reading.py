"""A specification from its file, or everything that is wrong with it at once."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slimdiff.config.base import Section
from slimdiff.generation.spec_forms import (
    BIN_RANGE,
    FORMS,
    MAX_BIN,
    MAX_COUNT,
    MAX_REPLICAS,
    BinCounts,
    Defaults,
    Spec,
    ends,
    items,
)
from slimdiff.generation.strict_json import Problem, SpecError, pointer, read_json, shown

_PATH = "a path that starts neither with a space nor with ~, which nothing expands here,"
_AMOUNT = f"a whole number from 0 to {MAX_COUNT}"
_ENTRY = "an object of zbin, control and lesion"

# What belongs under each key, for whoever wrote something else.
WANTED = {
    "checkpoint_path": _PATH,
    "config_path": _PATH,
    "output_dir": _PATH,
    "priors_path": _PATH,
    "seed": f"a whole number from 0 to {2**32 - 1}",
    "device": '"auto", "cpu", "cuda" or "mps"',
    "replicas": f"a whole number from 1 to {MAX_REPLICAS}",
    "format": '"detailed" or "compact"',
    "$schema": "the address of a schema",
    "samples": f"a list with at least one entry, each {_ENTRY},",
    "overrides": f"a list, each entry {_ENTRY},",
    "defaults": "an object of control, lesion and zbins",
    "zbin": f"a whole number from 0 to {MAX_BIN}",
    "zbins": '"all", a range such as "0-9", or a list of z-bins and ranges',
    "control": _AMOUNT,
    "lesion": _AMOUNT,
}
_NESTED: dict[str, type[Section]] = {"samples": BinCounts, "overrides": BinCounts, "defaults": Defaults}


def load_spec(path: str | Path) -> Spec:
    """Read a specification.

    Raises SpecError with one line a problem, all of them at once: `spec.json#/samples/3/control: found 2.5; a whole
    number from 0 to 1000000 is wanted`.
    """
    source = Path(path)
    values, repeated = read_json(source)
    return spec_from_values(values, source, repeated)


def spec_from_values(
    values: Mapping[str, Any], source: Path = Path("specification"), known: list[Problem] | None = None
) -> Spec:
    """Make a specification of a mapping; `known` are problems already found in it, `source` is named in errors."""
    form = values.get("format")
    told = isinstance(form, str) and form in FORMS
    # Without a usable format the keys tell which rules to judge the rest by.
    model = FORMS[form if told else "detailed" if "samples" in values else "compact"]
    problems = list(known or [])
    spec = None
    try:
        spec = model.model_validate(dict(values))
    except ValidationError as error:
        problems += _of_shape(error, values, told)
    problems += _clashes(values, model)
    if spec and not problems and not spec.counts(MAX_BIN + 1):
        place = "samples" if form == "detailed" else "defaults"
        problems.append(Problem((place,), "no sample in all; at least one count above 0 is wanted"))
    if problems:
        raise SpecError.of(source, sorted(problems, key=lambda problem: problem.place))
    return spec


def _of_shape(error: ValidationError, values: Mapping, told: bool) -> Iterator[Problem]:
    for problem in error.errors(include_url=False, include_context=False):
        *above, key = place = problem["loc"]
        if problem["type"] == "extra_forbidden":
            yield Problem(place, _unwanted(place, values, told))
        elif problem["type"] == "missing":
            # Which form's own keys are missing is not known before the form is.
            if told or above or key not in _NESTED:
                yield Problem(tuple(above), f"no {key}; {WANTED[key]} is wanted")
        elif place[:2] != ("defaults", "zbins"):
            wanted = WANTED[key] if isinstance(key, str) else _ENTRY
            yield Problem(place, f"found {shown(problem['input'])}; {wanted} is wanted")


def _unwanted(place: tuple, values: Mapping, told: bool) -> str:
    key = place[-1]
    if len(place) > 1:
        allowed = _keys(_NESTED[place[0]])
    else:
        for form, model in FORMS.items():
            if key in _keys(model):
                other = f"this is {values['format']}" if told else "the other's keys stand here too"
                return f"it belongs to format {form}; {other}"
        allowed = (
            _keys(FORMS[values["format"]]) if told else sorted({k for m in FORMS.values() for k in _keys(m)})
        )
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"unknown key{hint} Allowed here: {', '.join(allowed)}"


def _keys(model: type[Section]) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _clashes(values: Mapping, model: type[Section]) -> list[Problem]:
    """What is wrong between entries that may each be right: read from the raw values, so that no other mistake hides
    it."""
    problems: list[Problem] = []
    covered = None
    defaults = values.get("defaults")
    if "defaults" in model.model_fields and isinstance(defaults, Mapping) and "zbins" in defaults:
        covered, problems = _read_zbins(defaults["zbins"])
    for name in ("samples", "overrides"):
        entries = values.get(name) if name in model.model_fields else None
        seen: dict[int, int] = {}
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            z_bin = entry.get("zbin") if isinstance(entry, Mapping) else None
            if type(z_bin) is not int:
                continue
            place = (name, index, "zbin")
            if z_bin in seen:
                first = pointer((name, seen[z_bin]))
                problems.append(Problem(place, f"z-bin {z_bin} again, as in {first}; once is wanted"))
            elif name == "overrides" and covered is not None and z_bin not in covered:
                problems.append(
                    Problem(place, f"z-bin {z_bin} is none of defaults.zbins; one of them is wanted")
                )
            seen.setdefault(z_bin, index)
    return problems


def _read_zbins(zbins: Any) -> tuple[dict[int, tuple] | None, list[Problem]]:
    """{z-bin: place that names it}, None where that is not known, and what is wrong with them."""
    top = ("defaults", "zbins")
    if zbins == "all":
        return None, []
    if zbins == [] or not isinstance(zbins, list | str):
        return None, [Problem(top, f"found {shown(zbins)}; {WANTED['zbins']} is wanted")]
    problems: list[Problem] = []
    covered: dict[int, tuple] = {}
    readable = True
    for below, item in items(zbins):
        place = (*top, *below)
        if fault := _item_fault(item, alone=not below):
            problems.append(Problem(place, fault))
            readable = False
            continue
        first, last = ends(item)
        again = [z for z in range(first, last + 1) if z in covered]
        if again:
            which = f"z-bin {again[0]}" if len(again) == 1 else f"z-bins {again[0]} to {again[-1]}"
            earlier = pointer(covered[again[0]])
            problems.append(Problem(place, f"{which} again, as in {earlier}; every z-bin once is wanted"))
        covered.update({z: place for z in range(first, last + 1) if z not in covered})
    return covered if readable else None, problems


def _item_fault(item: Any, alone: bool) -> str | None:
    if type(item) is int and 0 <= item <= MAX_BIN:
        return None
    if isinstance(item, str) and re.fullmatch(BIN_RANGE, item):
        first, last = ends(item)
        return None if first <= last else f'found "{item}", which falls; "{last}-{first}" is wanted'
    wanted = WANTED["zbins"] if alone else f'a z-bin from 0 to {MAX_BIN} or a range such as "0-9"'
    return f"found {shown(item)}; {wanted} is wanted"
