"""Damaged copies of good files: bytes, words and lines of any file, values of JSON, fields of a NIfTI header."""

import copy
import json
import math
import re
from typing import Any

import nibabel
import numpy as np
from hypothesis import strategies as st

WORDS = (
    *(
        "",
        "n/a",
        "nan",
        "NaN",
        "inf",
        "-Infinity",
        "null",
        "true",
        "yes",
        "0",
        "-0",
        "-1",
        "1.5",
        "1e999",
        "9" * 40,
    ),
    *(
        "0x10",
        "1_000",
        "٣",
        "²",
        "½",
        "1,5",
        "../../etc/passwd",
        "a/b",
        "\\",
        "~",
        "{x}",
        "*",
        "&a",
        "!!python/name:os",
    ),
    *(
        '"',
        "'",
        '""',
        "\t",
        "\r",
        "\n",
        "\0",
        "\u2028",
        "\ufeff",
        "\u202e",
        "é",
        "💥",
        "#",
        ":",
        "[",
        "]",
        "{",
        "}",
    ),
    *("__proto__", "<<", "a" * 5000, "9" * 5000, "[" * 300),
)
"""What replaces a word, or is inserted: numbers at the limits, marks of YAML, JSON, CSV and paths, other scripts."""
LONG = 150_000
"""Characters of a long cell: more than Python's reader of tables takes."""


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four changes."""
    for _ in range(int(rng.integers(1, 5))):
        content = CHANGES[int(rng.integers(len(CHANGES)))](content, rng)
    return content


def _place(content: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(content) + 1))


def _flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(len(content), size=int(rng.integers(1, 9))) if content else ():
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def _without_a_part(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    return content[:place] + content[place + int(rng.integers(1, 65)) :]


def _with_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.bytes(int(rng.integers(1, 17))) + content[place:]


def _with_a_word(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    return content[:place] + _word(rng) + content[place:]


def _word(rng: np.random.Generator) -> bytes:
    return WORDS[int(rng.integers(len(WORDS)))].encode()


def _with_another_word(content: bytes, rng: np.random.Generator) -> bytes:
    """One word between spaces, tabs, commas, colons, quotes or brackets is another one."""
    ends = [place for place, byte in enumerate(content) if byte in b' \t\n,:"[]{}']
    if len(ends) < 2:
        return _word(rng)
    number = int(rng.integers(len(ends) - 1))
    return content[: ends[number] + 1] + _word(rng) + content[ends[number + 1] :]


def _lines_changed(content: bytes, rng: np.random.Generator) -> bytes:
    """A line is there twice, is missing, or is elsewhere."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    line, to = lines[int(rng.integers(len(lines)))], int(rng.integers(len(lines) + 1))
    what = int(rng.integers(3))
    if what:
        lines.remove(line)
    if what != 1:
        lines.insert(to, line)
    return b"".join(lines)


def _encoded(content: bytes, rng: np.random.Generator) -> bytes:
    """The text, with a letter that is not ASCII, in another encoding; or with other line ends."""
    text = content.decode("latin-1") + "é"
    encodings = ("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7")
    number = int(rng.integers(len(encodings) + 1))
    return text.encode(encodings[number]) if number < len(encodings) else content.replace(b"\n", b"\r")


def _long(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    return content[:place] + b"7" * LONG + content[place:]


CHANGES = (
    *(_flipped, _cut, _without_a_part, _with_bytes, _with_a_word, _with_another_word, _with_another_word),
    *(_lines_changed, _encoded, _long),
)

NUMBERS = st.one_of(
    st.integers(-3, 100),
    st.integers(),
    st.sampled_from([2**31, 2**63, -(2**63), 2**64, 10**40, 10**400]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 5e-324, -0.0]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Any value of JSON: wrong types, huge numbers, NaN, empty, all scripts."""
DEEP = st.integers(40, 2000).map(lambda depth: f"@{depth} levels@")
"""Stands for a list in a list in a list ..., which Python's writer of JSON cannot write."""


def json_text(values: Any) -> str:
    """Values as JSON, with the lists that `DEEP` stands for."""
    return re.sub(
        r'"@(\d+) levels@"', lambda deep: "[" * int(deep[1]) + "]" * int(deep[1]), json.dumps(values)
    )


def places_in(values: Any, above: tuple = ()) -> list[tuple]:
    """The place of every key and item, at all levels."""
    parts = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    return [place for key, value in parts for place in ((*above, key), *places_in(value, (*above, key)))]


def changed(values: dict, place: tuple, what: str, value: Any) -> dict:
    """A copy in which the value at a place is replaced, removed, renamed or joined by another one."""
    values = copy.deepcopy(values)
    *above, last = place
    inner = values
    for key in above:
        inner = inner[key]
    if what == "replace":
        inner[last] = value
    elif what == "remove":
        del inner[last]
    elif isinstance(inner, list):
        inner.insert(last, value)
    elif what == "rename":
        inner[str(value)[:50]] = inner.pop(last)
    else:
        inner[f"{last}_"] = value
    return values


def changes_of(values: dict) -> st.SearchStrategy[list[tuple]]:
    """One to three changes of a mapping, for `changed`, each of another key."""
    change = st.tuples(
        st.sampled_from(places_in(values)),
        st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add"]),
        st.one_of(VALUES, VALUES, VALUES, DEEP),
    )
    return st.lists(change, min_size=1, max_size=3)


def headers(raw: bytes) -> st.SearchStrategy[bytes]:
    """A NIfTI-1 file with one to three fields of its header changed."""
    fields = nibabel.Nifti1Header(raw[:348]).structarr.dtype.fields
    change = st.tuples(st.sampled_from(sorted(fields)), NUMBERS, st.integers(0, 7))
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _with_fields(raw, changes))


def _with_fields(raw: bytes, changes: list[tuple[str, Any, int]]) -> bytes:
    header = np.frombuffer(raw[:348], nibabel.Nifti1Header.template_dtype).copy()
    for name, number, place in changes:
        field = header[name]
        flat = field.reshape(-1)
        if flat.dtype.kind == "S":
            flat[place % len(flat)] = str(number).encode()[: flat.dtype.itemsize]
        elif flat.dtype.kind == "f":
            with np.errstate(over="ignore"):
                flat[place % len(flat)] = np.float64(
                    number if abs(number) < 1e300 or number != number else 1e300
                )
        else:
            whole = int(number) if isinstance(number, int) or math.isfinite(number) else 0
            flat[place % len(flat)] = np.array(whole % 2 ** (8 * flat.dtype.itemsize), np.uint64).astype(
                flat.dtype
            )
    return header.tobytes() + raw[348:]
