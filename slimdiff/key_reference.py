"""The JSON schema and the key reference, written from the models: `python -m slimdiff.key_reference`."""

import json
import types
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from slimdiff import stages
from slimdiff.config.base import Section
from slimdiff.config.needs import EVERYTHING
from slimdiff.config.recipes import PUBLISHED
from slimdiff.config.study import VARIANT_SECTIONS, Study

SCHEMA = Path("workflow/schemas/study.schema.json")
REFERENCE = Path("config/README.md")

INTRODUCTION = """# Configuration

A study is one YAML file. Run it with `snakemake --cores all --configfile my_study.yaml`.

- Write only the keys that differ from the defaults below. The defaults are the paper's values, unless a key says
  otherwise or something else learned more from the same computing (`docs/learning.md`). `recipe: published` at the top
  of a study sets the paper's values in all keys: the column *published* has those that differ.
- An unknown key, a wrong type or an impossible value stops the run before its first job. The message names the key,
  what was found and what is expected.
- `seed`, `device` and `tau` at the top apply to the whole study. A section's own value overrides them.

Start from one of these:

| file | what |
|---|---|
| `demo.yaml` | the default: a phantom cohort, minutes on two CPU cores |
| `open_ms.yaml` | your own volumes, given by a table of paths |
| `lgg.yaml` | slices as pictures: the LGG MRI Segmentation dataset as it is on Kaggle |
| `lgg_grid.yaml`, `lgg_grid_ours.yaml` | the paper's nine configurations on these patients (`docs/paper.md`) |
| `lgg_couplings.yaml` | the four couplings on these patients (`docs/paper.md`) |
| `ds004199.yaml` | OpenNeuro ds004199: download, brain extraction, registration, training |
| `paper.yaml` | the paper's nine configurations on the same data |
| `ablations.yaml` | one change at a time from the paper's best configuration, on the same data |
| `demo_ablations.yaml` | some of these changes on the demo's cohort (`docs/ablations.md`) |

This file and `workflow/schemas/study.schema.json` are generated: `python -m slimdiff.key_reference`.

## Variants
`variants` names overrides of {variant_sections}. Each variant is trained, sampled
and evaluated on every fold.

```yaml
variants:
  base: {{}}
  p2: {{diffusion: {{loss: {{p_image: 2.0}}}}}}
```

## What runs again after a change
A stage reads only the keys of its row. If one of them changes, Snakemake runs this stage and all later ones again.
`variants` means the names here; a stage of one variant reads that variant's overrides.

| stage | keys |
|---|---|
{stages}

- `training` also has the keys for logs, previews and saving. A change of these trains again, so set them before.
- `slices.n_bins` also determines the files of the samples.
- Snakemake does not notice a change of the package's code. After an update, force a stage by name, for example
  `snakemake --cores all --forcerun metrics`.
"""


REFERENCE_MODES = """## The published code's loss modes

Its eight named modes (`loss.mode`) are combinations of the keys of `diffusion`, in a study with `recipe: published`.
The pMF modes are in its public repository, not in slim-diff 1.0.0. Where it weights lesion pixels, its mean is not
divided by the sum of the weights; ours is, so only the ratio of lesion to background counts.

| its mode | here |
|---|---|
{modes}

- Its focal frequency loss uses `alpha` 1.2-1.35 and `patches: 2`.
- `uncertainty: each` learns one weight per term (its `uncertainty_weighting`). `groups` learns one for image and mask
  together and one per further term (its `group_uncertainty_weighting`). `none` is the plain sum.
- Its logarithm of the frequency weights and its initial log variances are not implemented.
"""

MODES = {
    "mse_channels": {"loss": {"p_image": 2.0, "p_mask": 2.0, "uncertainty": "each"}},
    "mse_ffl_groups": {
        "loss": {"p_image": 2.0, "p_mask": 2.0, "uncertainty": "groups", "focal_frequency": {"weight": 1.0}}
    },
    "mse_lp_norm": {"loss": {"p_image": 1.5, "p_mask": 1.5}},
    "mse_lp_norm_ffl_groups": {
        "loss": {"p_image": 1.5, "p_mask": 1.5, "uncertainty": "groups", "focal_frequency": {"weight": 1.0}}
    },
    "pmf_x0_loss": {"prediction": "x0", "loss": {"p_image": 1.5, "p_mask": 1.5, "uncertainty": "each"}},
    "pmf_v_loss": {
        "prediction": "x0",
        "loss": {"space": "v", "p_image": 2.0, "p_mask": 2.0, "uncertainty": "each"},
    },
    "pmf_x0_loss_lpips": {
        "prediction": "x0",
        "loss": {"p_image": 1.5, "p_mask": 1.5, "uncertainty": "each", "perceptual": {"weight": 0.1}},
    },
    "pmf_v_loss_lpips": {
        "prediction": "x0",
        "loss": {
            "space": "v",
            "p_image": 2.0,
            "p_mask": 2.0,
            "uncertainty": "each",
            "perceptual": {"weight": 0.1},
        },
    },
}
"""The published code's loss modes as section `diffusion`."""


def schema() -> str:
    """JSON schema of a study file."""
    return json.dumps(Study.model_json_schema(), indent=1, sort_keys=True) + "\n"


def reference() -> str:
    """Markdown tables of every key."""
    rows = "\n".join(
        f"| `{stage}` | {_needs_of(stage)} |" for stage in stages.names() if stages.module_of(stage).NEEDS
    )
    sections = ", ".join(f"`{name}`" for name in VARIANT_SECTIONS)
    parts = [INTRODUCTION.format(variant_sections=sections, stages=rows)]
    top = {name: field for name, field in Study.model_fields.items() if _section(field) is None}
    parts.append(_table("Study", Study.__doc__ or "", top))
    for name, field in Study.model_fields.items():
        model = _section(field)
        if model is not None:
            parts += _of_section(name, model)
    modes = "\n".join(f"| `{mode}` | `diffusion: {_flow(values)}` |" for mode, values in MODES.items())
    parts.append(REFERENCE_MODES.format(modes=modes))
    return "\n".join(parts)


def _needs_of(stage: str) -> str:
    """A stage's keys; of a section of which it reads several keys, the section once with its keys."""
    keys = stages.module_of(stage).NEEDS
    if keys == EVERYTHING:
        return "all keys"
    by_section: dict[str, list[str]] = {}
    for key in keys:
        section, _, rest = key.partition(".")
        by_section.setdefault(section, []).append(rest)
    return "; ".join(
        f"`{section}`" + (f" ({', '.join(rest)})" if rest != [""] else "")
        for section, rest in by_section.items()
    )


def _flow(value: typing.Any) -> str:
    """YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"
    return str(value)


def _of_section(path: str, model: type[BaseModel]) -> list[str]:
    own = {name: field for name, field in model.model_fields.items() if _section(field) is None}
    parts = [_table(f"`{path}`", model.__doc__ or "", own)]
    for name, field in model.model_fields.items():
        nested = _section(field)
        if nested is not None:
            parts += _of_section(f"{path}.{name}", nested)
    return parts


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _table(title: str, text: str, fields: dict[str, FieldInfo]) -> str:
    lines = [
        f"## {title}",
        "",
        text.strip(),
        "",
        "| key | default | published | allowed | meaning |",
        "|---|---|---|---|---|",
    ]
    published = PUBLISHED
    for part in title.strip("`").split("."):
        published = published.get(part, {})
    for name, field in fields.items():
        default = json.dumps(field.get_default(call_default_factory=True))
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        other = f"`{json.dumps(published[name])}`" if name in published else ""
        allowed = _allowed(field.annotation, field.metadata)
        lines.append(f"| `{name}` | `{default}` | {other} | {allowed} | {meaning} |")
    return "\n".join(lines) + "\n"


_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", typing.Any: "anything"}


def _allowed(kind: typing.Any, metadata: typing.Sequence = ()) -> str:
    limits = [
        f"{sign} {_limit(getattr(item, key))}"
        for item in metadata
        for part in (getattr(item, "metadata", None) or [item])
        for key, sign in _LIMITS.items()
        for item in [part]
        if getattr(item, key, None) is not None
    ]
    return ", ".join([_kind(kind), *limits])


def _limit(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else str(value)


def _kind(kind: typing.Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _allowed(arguments[0], arguments[1:])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _kind(part) for part in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of: {_kind(arguments[0])}"
        kinds = dict.fromkeys(map(_kind, arguments))
        return f"list of {len(arguments)}: {'; last: '.join(kinds)}"
    if origin is dict:
        return "mapping"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def main() -> None:
    """Write both files below the current folder."""
    SCHEMA.parent.mkdir(parents=True, exist_ok=True)
    SCHEMA.write_text(schema(), encoding="utf-8")
    REFERENCE.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
