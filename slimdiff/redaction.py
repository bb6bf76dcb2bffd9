"""What is shown, exported or published carries no home folders, passwords or signed addresses.

`redacted` is the one function for it; `shown_text` also makes invisible characters visible. Pages, figures, tables,
provenance.json, config.json, report.html and exports pass through them (docs/publishing.md). Files that a later stage
reads its inputs from (participants.tsv, quality.tsv, the folder quality/) keep the paths as configured, and so do logs.

- An address loses its user and password, and its whole query or fragment where one parameter is a key or a signature.
- `token=...`, `password: ...` and the like lose their value outside of addresses, too.
- An absolute path keeps its last part, because its folders often hold the name of a person: `.../cohort`.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

HIDDEN = "***"
SECRET = (
    r"tokens?|sig|signature|pass|passwd|passwords?|passphrase|pwd|secrets?|credentials?|apikey|accesskey|awsaccesskeyid"
    r"|authorization|jwt|sas"
)
"""Words in the name of a parameter whose value gives access."""
SECRET_IN_TEXT = (
    r"token|passwd|passwords?|passphrase|pwd|secrets?|credentials?|apikey|accesskey|authorization|jwt"
)
"""The same before a colon, where a word may be one of a sentence."""
SECRET_IN_ADDRESS = rf"{SECRET}|key|auth|code|session|sid|hash|hmac|policy|amz|goog"
"""The same in the query of an address, where a name says less."""
WORD = re.compile(r"[a-z]+|[A-Z][a-z]*", re.ASCII)
USER = r"(?:[^\s/?#\"'<>:@]*:(?!\d+/(?:[^\s\"'<>@]*/)?@)[^\s\"'<>]*@|[^\s/?#\"'<>]*@)"
"""User and password of an address; a password may have / or ?, though none should. A name may follow a port: /@name."""
ADDRESS = re.compile(rf"\b([a-z][a-z0-9+.-]*://){USER}?([^\s?#\"'<>\\]*)([?#][^\s\"'<>\\]*)?", re.IGNORECASE)
WEB = ("http://", "https://", "s3://", "gs://")
"""Addresses whose path is none of a file system."""
ASSIGNED = re.compile(
    r"(?<![\w.-])([\w.-]+)(=|[\"']?[ \t]*:[ \t]*[\"']?)(?:(?:bearer|basic|token)[ \t]+)?[^\s&;,\"'<>\\]+",
    re.IGNORECASE,
)
OPAQUE = re.compile(r"[\w%+/=.~-]{24,}")
"""The value of a parameter that is no word: a key, whatever its name."""
HOME = r"(?:/root|/(?:home|Users|var/home|export/home)/[^/\s\"'<>|:,;]+|[A-Za-z]:[\\/]+Users[\\/]+[^\\/\s\"'<>|:,;]+)"
A_HOME = re.compile(HOME)
PART = r"(?:\\u[0-9a-f]{4}|[^\s/\\\"'<>|:,;()\[\]{}])+"
PATH = re.compile(rf"(?<![\w/.…~<\\])(?:~[\w.-]*/|/{PART}/)(?:{PART}/)*(?:{PART})?")
IN_HOME = re.compile(rf"(?<![\w/])(?:\.\.?/)*(?:\.\.)?({HOME}(?:[/\\]+{PART})*)")
WHOLE_PATH = re.compile(r"(?:~[\w.-]*)?/[^\n]+|~[\w.-]*|[A-Za-z]:[\\/]+Users[\\/][^\n]+")
CONTROLS = {"Cc", "Cf", "Cs"}
JOINERS = "\u200c\u200d\u200e\u200f"
"""Invisible characters that words of many languages need."""


def redacted(value: Any, folders: Iterable[str] = ()) -> Any:
    """The same value, text or nested mappings and lists of JSON, without secrets and folders.

    folders: absolute paths that may occur in texts, also with spaces; `folders_in` finds those of a study.
    """
    home = _home() or ""
    # PATH finds others, but ends at a space.
    known = sorted({*folders, *([home] if " " in home else [])}, key=len, reverse=True)
    return _redacted(value, [folder for folder in known if len(Path(folder).parts) > 1])


def _redacted(value: Any, known: list[str]) -> Any:
    if isinstance(value, str):
        return _without_folders(ASSIGNED.sub(_assigned, ADDRESS.sub(_address, value)), known)
    if isinstance(value, Mapping):
        return {_redacted(key, known): _redacted(part, known) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(part, known) for part in value]
    return value


def shown_text(value: object) -> str:
    """A value as text for a page or figure: redacted, with control characters and changes of direction as codes."""
    return "".join(map(_visible, redacted(str(value))))


MARKDOWN = re.compile(r"[\\`*_\[\]<&|~]")
"""Signs that Markdown, or HTML in it, may read as more than a sign."""


def markdown_text(text: str) -> str:
    """Free text as one line of a Markdown file, in which nothing is Markdown or HTML."""
    return MARKDOWN.sub(r"\\\g<0>", shown_text(" ".join(text.split())))


def _visible(sign: str) -> str:
    if sign in "\n\t" or sign in JOINERS or unicodedata.category(sign) not in CONTROLS:
        return sign
    return f"\\u{ord(sign):04x}"


def short_path(path: str) -> str:
    """Of an absolute path only the last part, of a home folder not even that; any other path as it is."""
    if not WHOLE_PATH.fullmatch(path):
        return path
    bare = path.rstrip("/\\")
    if A_HOME.fullmatch(bare) or bare in {_home(), ""} or re.fullmatch(r"~[\w.-]*", bare):
        return "~"
    name = re.split(r"[/\\]", bare)[-1]
    return f".../{name}"


def folders_in(values: Any) -> set[str]:
    """The absolute paths among the texts of nested mappings and lists."""
    if isinstance(values, str):
        return {values} if values.startswith("/") and WHOLE_PATH.fullmatch(values) else set()
    parts = (
        values.values() if isinstance(values, Mapping) else values if isinstance(values, list | tuple) else ()
    )
    return {folder for part in parts for folder in folders_in(part)}


def _home() -> str | None:
    try:
        return str(Path.home())
    except RuntimeError:
        return None


def _address(found: re.Match) -> str:
    scheme, rest, query = found.groups()
    host, slash, path = rest.partition("/")
    # A second time, what is shortened already stays.
    if slash and "..." not in (host, path.partition("/")[0]):
        if scheme.lower() == "file://":
            rest = host + short_path(f"/{path}")
        elif scheme.lower() not in WEB and A_HOME.match(f"/{path}"):
            rest = f"{host}/{short_path(f'/{path}')}"
    return scheme + rest + ("" if query and _gives_access(query) else query or "")


def _gives_access(query: str) -> bool:
    for part in re.split(r"[?#&;]", query):
        name, _, value = part.partition("=")
        if _is_secret(name, SECRET_IN_ADDRESS) or OPAQUE.fullmatch(value or name):
            return True
    return False


def _is_secret(name: str, words: str) -> bool:
    """Whether a parameter's name is, or has, one of these words: access_token, X-Amz-Signature, AccessKey."""
    parts = [part.lower() for part in WORD.findall(name)]
    pairs = ["".join(pair) for pair in pairwise(parts)]
    return any(re.fullmatch(words, part) for part in (*parts, *pairs, name.lower()))


def _assigned(found: re.Match) -> str:
    words = SECRET if found[2] == "=" else SECRET_IN_TEXT
    return f"{found[1]}{found[2]}{HIDDEN}" if _is_secret(found[1], words) else found[0]


def _without_folders(text: str, known: list[str]) -> str:
    for folder in known:
        for written in dict.fromkeys((folder, json.dumps(folder)[1:-1])):
            if written in text:
                text = re.sub(
                    rf"(?<![\w.…]){re.escape(written)}(?![\w-])", lambda _, f=folder: short_path(f), text
                )
    if WHOLE_PATH.fullmatch(text) and not re.search(r": |, ", text):
        return short_path(text)
    text = IN_HOME.sub(lambda path: short_path(path[1]), text)
    return PATH.sub(lambda path: short_path(path[0]), text)
