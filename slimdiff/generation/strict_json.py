"""JSON files read strictly, with the place of every fault as a JSON pointer (RFC 6901)."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_DEPTH = 20
SHOWN = 60
_DEEP = f"more than {MAX_DEPTH} levels deep"
_HALF = r"half a character: \ud800 to \udfff stand in pairs only"


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place of a document."""

    place: tuple[str | int, ...]
    """Keys and indices from the top of the document down to the value."""
    text: str

    def line(self, source: Path) -> str:
        return f"{source}#{pointer(self.place)}: {self.text}"


class SpecError(ValueError):
    """A specification that cannot be used; the message has one line a problem, with its place."""

    @classmethod
    def of(cls, source: Path, problems: Sequence[Problem]) -> "SpecError":
        return cls("\n".join(dict.fromkeys(problem.line(source) for problem in problems)))


def pointer(place: Sequence[str | int]) -> str:
    """The JSON pointer of a place; control characters are escaped, so that it stays one line."""
    tokens = [str(key).replace("~", "~0").replace("/", "~1") for key in place]
    return "".join(f"/{json.dumps(token, ensure_ascii=not token.isprintable())[1:-1]}" for token in tokens)


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."


class _Object(dict):
    """A JSON object that remembers which of its keys stood there more than once."""

    repeated: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object(pairs)
    if len(result) < len(pairs):
        times = Counter(key for key, _ in pairs)
        result.repeated = tuple(key for key in result if times[key] > 1)
    return result


def read_json(path: Path) -> tuple[dict, list[Problem]]:
    """The object that a JSON file holds, and the keys that stand twice in it. Python's reader also takes
    NaN and Infinity; who wants whole numbers refuses them.

    Raises SpecError where the file cannot be read as JSON, or holds something else than one object.
    """
    if path.is_dir():
        raise SpecError(f"{path}: a folder; the file of a specification is wanted")
    if not path.is_file():
        raise SpecError(f"{path}: no such file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: not readable: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise SpecError(f"{path}: empty; a JSON object is wanted")
    try:
        values = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise SpecError(f"{path}: not JSON at {place}: {error.msg}") from None
    except RecursionError:
        raise SpecError(f"{path}: not readable as JSON: brackets within brackets without end") from None
    except ValueError:
        # Python's own limit, against numbers that take minutes to read.
        raise SpecError(f"{path}: not readable as JSON: a number of thousands of digits") from None
    if not isinstance(values, dict):
        raise SpecError.of(path, [Problem((), f"found {_kind(values)}; an object {{...}} is wanted")])
    problems = list(_faults(values, ()))
    if any(problem.text in (_DEEP, _HALF) for problem in problems):
        raise SpecError.of(path, problems)
    return values, problems


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else shown(value)


def _faults(value: Any, place: tuple[str | int, ...]) -> Iterator[Problem]:
    if len(place) > MAX_DEPTH:
        yield Problem(place, _DEEP)
    elif isinstance(value, _Object):
        for key in value.repeated:
            yield Problem((*place, key), "this key stands more than once in its object; once is wanted")
        for key, part in value.items():
            yield from _faults(key, (*place, key))
            yield from _faults(part, (*place, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _faults(part, (*place, index))
    elif isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        yield Problem(place, _HALF)
