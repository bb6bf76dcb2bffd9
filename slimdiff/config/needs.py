"""What a stage reads of a study: the dotted keys that it declares, and no other.

A rule passes exactly these keys to its command, so that a change elsewhere does not run the stage again. Whether a
command gets them from a rule or the whole study from a file, it sees them through `only`, which raises on every other
key: a stage can never take a default for what the user has set.
"""

import json
from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any

from slimdiff.config.base import Section
from slimdiff.config.paths import StudyPaths

ALWAYS = ("study", "results_dir")
"""Every stage knows the study's name and folder."""
EVERYTHING = ("*",)
"""NEEDS of the stage that records the whole study."""


class UndeclaredKey(RuntimeError):
    """A stage read a key of the study that its NEEDS do not name."""


class DeclaredKeys:
    """A section of a study, or the whole study, that answers for the declared keys only.

    Properties and methods of the section work as far as the keys behind them are declared.

    Args:
        section: what is read.
        needs: dotted keys below the section; `a` declares all of section a, `a.b` its key b alone.
        stage: name of the stage, for the message.
        prefix: dotted place of the section in the study, empty for the study itself.
    """

    def __init__(self, section: Section, needs: Iterable[str], stage: str, prefix: str = ""):
        self._section, self._needs, self._stage, self._prefix = section, tuple(needs), stage, prefix

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = type(self._section)
        if name not in kind.model_fields:
            found = getattr(kind, name)
            if isinstance(found, property):
                return found.fget(self)
            # A method that looks through the declared keys; a static one needs no study.
            return MethodType(found, self) if callable(found) and hasattr(found, "__code__") else found
        value = getattr(self._section, name)
        if name in self._needs:
            return value
        below = [key.partition(".")[2] for key in self._needs if key.startswith(f"{name}.")]
        if isinstance(value, Section):
            return DeclaredKeys(value, below, self._stage, f"{self._prefix}{name}.")
        if not below:
            raise UndeclaredKey(
                f"stage {self._stage} reads {self._prefix}{name}; add it to NEEDS in "
                f"slimdiff/stages/{self._stage.replace('-', '_')}.py"
            )
        return {key: part for key, part in value.items() if key in below}

    def model_dump(self, include: Iterable[str], mode: str = "python") -> dict[str, Any]:
        """These keys of the section, as pydantic gives them; an undeclared one raises."""
        for name in include:
            getattr(self, name)
        return self._section.model_dump(mode=mode, include=set(include))


class DeclaredStudy(DeclaredKeys):
    """A study that answers for the keys of one stage only; see `DeclaredKeys`."""

    def variant(self, name: str) -> "DeclaredStudy":
        """The study with one variant's overrides applied, under the same declaration."""
        return DeclaredStudy(self._section.variant(name), self._needs, self._stage)

    @property
    def paths(self) -> StudyPaths:
        """As of the whole study; without names of volumes where the stage does not declare them."""
        try:
            modality = self.data.modality_name
        except UndeclaredKey:
            modality = None
        return StudyPaths.of(self.results_dir, self.study, modality)

    def as_json(self) -> str:
        """The declared keys with their values, as a rule passes them."""
        return needs_json(self._section, self._needs)


def needs_json(
    study: Section, needs: Iterable[str], variant: str | None = None, without: Iterable[str] = ()
) -> str:
    """The JSON text that a rule passes as `--config`: the declared keys with their values, defaults written out.

    variant: its overrides are applied, so that a change in one variant concerns this variant only.
    without: dotted keys that are left out.
    """
    resolved = study.variant(variant) if variant else study
    values = resolved.model_dump(mode="json")
    for key in without:
        section, _, name = key.partition(".")
        del values[section][name]
    if tuple(needs) == EVERYTHING:
        return _as_argument(values)
    chosen: dict[str, Any] = {}
    for key in dict.fromkeys((*ALWAYS, *needs)):
        _copy(values, chosen, key.split("."))
    if "variants" in chosen:
        chosen["variants"] = {name: {} for name in study.variants}
    if variant:
        chosen["variants"] = {variant: {}}
    return _as_argument(chosen)


def _as_argument(values: dict[str, Any]) -> str:
    # Snakemake's report shows it inside of a script, which `</script>` would end.
    return json.dumps(values, sort_keys=True).replace("<", "\\u003c")


def _copy(source: Mapping, target: dict, path: list[str]) -> None:
    first, *rest = path
    if first not in source:
        # A key of a mapping (quality.accept) that the user did not set.
        return
    if not rest:
        target[first] = source[first]
    elif isinstance(source[first], Mapping):
        _copy(source[first], target.setdefault(first, {}), rest)
