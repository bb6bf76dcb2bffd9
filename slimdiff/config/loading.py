"""A study from a YAML or JSON file, or from a rule's JSON text; other JSON files, read with the same checks."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slimdiff.config.base import ConfigError, explain, shown
from slimdiff.config.checks import check_study
from slimdiff.config.recipes import with_recipe
from slimdiff.config.study import Study

TEMPLATE = "__use_yte__"
"""Key that makes a YAML file a template for Snakemake."""
MAX_BYTES = 250_000
"""Largest configuration file: a study with the reasons for excluding some five thousand participants. YAML's reader is
slow: of 1 MB it takes ten seconds, and a minute where a number has many colons."""
MAX_DEPTH = 50
"""Levels of keys and lists in a configuration; a study has eight."""
MAX_VALUES = 100_000
"""Keys and values in a configuration, aliases of YAML written out."""


def study_from_mapping(values: Mapping, source: str = "config", complete: bool = True) -> Study:
    """Validate a study's mapping; raise ConfigError with one line per problem.

    complete: also check the sections against each other. The part of a study that a rule passes to its stage was
    checked as a whole.
    """
    try:
        # YAML reads 2026-01-31 as a date; its field then checks its text.
        study = Study.model_validate_json(json.dumps(with_recipe(values), default=str))
        if complete:
            check_study(study)
        return study
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, Study)}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from None


def load_study(source: str | Path, complete: bool = True) -> Study:
    """Read a study from a YAML or JSON file, or from JSON text that starts with a brace.

    complete: also check the sections of a file against each other; a rule's JSON text was checked as a whole.

    Raises ConfigError with the file, the key, what was found and what is expected.
    """
    text = str(source)
    if text.lstrip().startswith("{"):
        return study_from_mapping(_parse_json(text, "config"), "config", complete=False)
    path = Path(source)
    return study_from_mapping(read_mapping(path), str(path), complete)


def read_mapping(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML or JSON file, before it is checked as a study.

    Raises ConfigError with the file if it is not UTF-8 text, not readable, too large or too deep (MAX_BYTES, MAX_DEPTH,
    MAX_VALUES), if a key is a duplicate, if it is a template, or if it holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected a configuration file, found {'a folder' if path.is_dir() else 'no such file'}"
        )
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ConfigError(
            f"{path}: expected a configuration of at most {MAX_BYTES} bytes, found {size}; is it the right file?"
        )
    content = _read_text(path)
    if path.suffix == ".json":
        values = _parse_json(content, str(path))
        check_size(values, str(path))
    else:
        values = _parse_yaml(content, str(path))
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected a mapping of sections (key: value), found {_described(values)}")
    if TEMPLATE in values:
        raise ConfigError(
            f"{path}: {TEMPLATE}: expected plain values, found a template, whose expressions Snakemake executes when "
            "it reads the file; write the values"
        )
    return values


def _parse_yaml(content: str, source: str) -> Any:
    import yaml  # only here: the core runs without it from JSON

    try:
        loader = _strict_loader()(content)
        loader.name = source
        node = loader.get_single_node()
        if node is None:
            return None
        # Before any value is made: an alias of an alias of ... grows without bound only then.
        check_size(node, source, _parts_of_node)
        return loader.construct_document(node)
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(_too_deep(f"{source}: not readable as YAML")) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not readable as YAML: {error}") from None


def _too_deep(source: str) -> str:
    return f"{source}: expected at most {MAX_DEPTH} levels of keys and lists, found more"


def _parts_of_node(node: Any) -> list[Any]:
    """The nodes in a node of YAML: keys and values of a mapping, items of a list."""
    if isinstance(node.value, str):
        return []
    return [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]


def _parts_of_value(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def check_size(root: Any, source: str, parts_of: Callable[[Any], list[Any]] = _parts_of_value) -> None:
    """Raise ConfigError if a value is nested too deep, contains itself, or has too many values.

    A part that occurs several times counts as often, but is looked through only once.
    """
    counted: dict[int, tuple[int, int]] = {}  # id: number of values, depth
    begun: set[int] = set()
    stack = [root]
    while stack:
        value = stack[-1]
        parts = parts_of(value)
        open_parts = [part for part in parts if id(part) not in counted]
        if open_parts:
            begun.add(id(value))
            if any(id(part) in begun for part in open_parts):
                raise ConfigError(
                    f"{source}: an alias (*) is inside of its own anchor (&): it contains itself; write the values"
                )
            stack += open_parts
        else:
            found = [counted[id(part)] for part in parts]
            number = 1 + sum(count for count, _ in found)
            depth = 1 + max((below for _, below in found), default=0)
            if number > MAX_VALUES:
                raise ConfigError(
                    f"{source}: expected at most {MAX_VALUES} values, aliases (*) written out, found more"
                )
            if depth > MAX_DEPTH:
                raise ConfigError(_too_deep(source))
            counted[id(value)] = number, depth
            begun.discard(id(value))
            stack.pop()


def _described(values: Any) -> str:
    """What a file holds instead of a mapping."""
    if values is None:
        return "nothing: the file is empty"
    return f"a {'list' if isinstance(values, list) else type(values).__name__}"


def _strict_loader() -> type:
    """YAML's safe loader, but a duplicate key is an error: YAML would ignore the first one."""
    import yaml

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            seen = set()
            for key_node, _ in node.value:
                key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
                if key is not None and key != "<<" and key in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"duplicate key {key!r}; keep one", problem_mark=key_node.start_mark
                    )
                seen.add(key)
            return super().construct_mapping(node, deep)

    return Strict


def load_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. A key that begins with _ is a comment, at any level, and left out.

    Raises ConfigError with the file, and with line and column if it is not JSON.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected a JSON file, found {'a folder' if path.is_dir() else 'no such file'}"
        )
    values = _parse_json(_read_text(path), str(path), comments=True)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected an object {{...}}, found {shown(values)}")
    return values


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from None


def _parse_json(text: str, source: str, comments: bool = False) -> Any:
    """A JSON text's value; raises ConfigError if it is not JSON, or an object has a duplicate key."""
    duplicates: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs = [pair for pair in pairs if not (comments and pair[0].startswith("_"))]
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        duplicates.extend(
            f"{source}: duplicate key {json.dumps(key)} in {shown(dict(pairs))}; keep one" for key in repeated
        )
        return dict(pairs)

    try:
        values = json.loads(text, object_pairs_hook=unique)
        # A lone surrogate is valid JSON, but is not text.
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError:
        raise ConfigError(_too_deep(f"{source}: not readable as JSON")) from None
    except ValueError as error:
        raise ConfigError(f"{source}: not readable as JSON: {error}") from None
    if duplicates:
        raise ConfigError("\n".join(duplicates))
    return values
