"""Samples by a JSON specification (`spec_forms` says what stands in one): read, judged, shown, drawn.

`python -m slimdiff.generation.spec` writes the JSON schema of a specification for editors.
"""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from slimdiff.devices import NoDevice
from slimdiff.generation.folder import ForeignFile, draw_into
from slimdiff.generation.spec_checks import plan
from slimdiff.generation.spec_forms import Spec
from slimdiff.generation.spec_plan import Plan
from slimdiff.generation.spec_reading import load_spec, spec_from_values
from slimdiff.generation.strict_json import Problem, SpecError

__all__ = ["Plan", "Spec", "SpecError", "load_spec", "plan", "run_spec", "spec_from_values", "spec_schema"]

SCHEMA = Path("workflow/schemas/generation_spec.schema.json")


def run_spec(
    path: str | Path, validate_only: bool = False, dry_run: bool = False, verbose: bool = False
) -> Plan:
    """Judge a specification and, unless told otherwise, draw its samples.

    Args:
        path: the JSON file.
        validate_only: say that it is valid, and stop.
        dry_run: show what would be drawn, and stop.
        verbose: show the checkpoint and the settings too.

    Raises:
        SpecError: with one line a problem; nothing is written then.
    """
    source = Path(path)
    whole = plan(load_spec(source), source)
    if dry_run or verbose:
        print(whole.describe(verbose))
    if validate_only:
        print(f"{source}: valid, {whole.total} samples")
    elif not dry_run:
        try:
            draw_into(whole.checkpoint, whole.generation, whole.counts, whole.output_dir, whole.priors)
        except ForeignFile as error:
            raise SpecError.of(source, [Problem(("output_dir",), str(error))]) from None
        except NoDevice as error:
            raise SpecError.of(source, [Problem(("device",), str(error))]) from None
        print(f"{whole.output_dir}: {whole.total} samples")
    return whole


class _WithoutNull(GenerateJsonSchema):
    """A key that may be left out may still not be null."""

    def nullable_schema(self, schema):
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema):
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema):
        return False


def spec_schema() -> dict:
    """JSON schema (2020-12) of both forms."""
    either = TypeAdapter(Annotated[Spec, Field(discriminator="format")])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "slimdiff generation specification",
        **either.json_schema(schema_generator=_WithoutNull),
    }


def main() -> None:
    """Write the schema below the current folder."""
    SCHEMA.parent.mkdir(parents=True, exist_ok=True)
    SCHEMA.write_text(json.dumps(spec_schema(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
