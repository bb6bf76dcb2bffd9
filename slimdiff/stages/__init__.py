"""The stages: one file, one command `slimdiff-<stage>` and one rule `<stage>` each, all with the same name.

A stage's file holds its docstring (the first line is the command's description), and

- `FOLLOWS`: the stage before it in the chain, None for the first: the order of `slimdiff --help`;
- `NEEDS`: the dotted keys of the study that it reads, None for a command that reads no study;
- `ONLY_LOGGED` (where it has any): keys of NEEDS whose change does not run it again;
- `AFTER_A_STOP` (where it resumes): what is kept after Ctrl-C, and how to resume;
- `WILDCARDS` (where it works on one variant and fold, or one fold, at a time);
- `outputs(paths, ...)`: the files that it leaves (none for a command without a rule);
- `add_arguments(parser)` (where it has options of its own);
- `run(study, options)`: the work. `study` raises on a key that NEEDS does not declare;
- `PASSES_ON` (where it is true): options that it does not know are in `options.further`.

Stages that no rule runs (`check`, `init`, `run`, `generate-spec`, `import`, ...) are in the folder `commands`.

Nothing heavy is imported before `run`: `--help` and a wrong argument answer at once.
"""

import argparse
import importlib
import pkgutil
from types import ModuleType

from slimdiff.config import Study, load_study, needs_json
from slimdiff.config.needs import DeclaredStudy
from slimdiff.stages import commands

CONFIG_HELP = "study: a YAML or JSON file, or JSON text"


def module_of(stage: str) -> ModuleType:
    """The module of a stage, by the stage's name."""
    return importlib.import_module(_modules()[_module_name(stage)])


def _modules() -> dict[str, str]:
    """Every stage's module: its name, with that of its package."""
    found = [*pkgutil.iter_modules(__path__, f"{__name__}.")]
    found += pkgutil.iter_modules(commands.__path__, f"{commands.__name__}.")
    return {info.name.rpartition(".")[2]: info.name for info in found if not info.ispkg}


def names() -> list[str]:
    """Every stage, in the order of the chain."""
    found = {name.removesuffix("_").replace("_", "-") for name in _modules()}
    after = {name: module_of(name).FOLLOWS for name in found}
    ordered: list[str] = []
    while len(ordered) < len(found):
        ready = sorted(name for name in found - set(ordered) if after[name] is None or after[name] in ordered)
        if not ready:
            raise RuntimeError(f"stages {sorted(found - set(ordered))}: FOLLOWS names no stage before them")
        # Directly behind the stage that each one follows.
        for name in ready:
            place = ordered.index(after[name]) + 1 if after[name] else len(ordered)
            ordered.insert(place, name)
    return ordered


def summary(stage: str) -> str:
    """The first line of a stage's docstring."""
    return module_of(stage).__doc__.strip().split("\n\n")[0].replace("\n", " ")


def needs(stage: str, study: Study) -> tuple[str, ...]:
    """The dotted keys that a stage reads of this study: its NEEDS, less what this study gives no effect."""
    module = module_of(stage)
    return module.needs(study) if hasattr(module, "needs") else module.NEEDS


def config_of(stage: str, study: Study, variant: str | None = None) -> str:
    """The JSON text that a rule passes to the stage's command as `--config`."""
    return needs_json(study, needs(stage, study), variant)


def compared_config_of(stage: str, study: Study, variant: str | None = None) -> str:
    """The part of `config_of` that Snakemake compares with the last run: without keys that only log."""
    logged = getattr(module_of(stage), "ONLY_LOGGED", ())
    return needs_json(study, needs(stage, study), variant, without=logged)


def fill(stage: str, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the stage's options to a parser."""
    module = module_of(stage)
    if module.NEEDS is not None:
        required = getattr(module, "CONFIG_REQUIRED", True)
        parser.add_argument("--config", required=required, metavar="STUDY", help=CONFIG_HELP)
    wildcards = getattr(module, "WILDCARDS", ())
    if "variant" in wildcards:
        parser.add_argument("--variant", metavar="NAME", help="one variant (default: all)")
    if "fold" in wildcards:
        parser.add_argument("--fold", type=int, metavar="K", help="one fold (default: all)")
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    return parser


def study_of(stage: str, options: argparse.Namespace) -> DeclaredStudy | Study | None:
    """The study of the command line as the stage may see it; None where the stage reads none.

    `options.runs` is added where the stage has wildcards: the list of (variant, fold), or of folds.
    """
    module = module_of(stage)
    if module.NEEDS is None or not options.config:
        return None
    # A checkpoint brings its own network and diffusion: of the study only the sections that are read must fit.
    study = load_study(options.config, complete=not getattr(options, "ckpt", None))
    wildcards = getattr(module, "WILDCARDS", ())
    if "variant" in wildcards:
        options.runs = study.runs(options.variant, options.fold)
    elif "fold" in wildcards:
        options.runs = list(range(study.folds.k)) if options.fold is None else [options.fold]
    return study.only(needs(stage, study), stage)


def at_least_one(text: str) -> int:
    """An option that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def seed(text: str) -> int:
    """An option's seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, found {text!r}")
    return int(text)


def _module_name(stage: str) -> str:
    # `import` is a word of Python's; its file has an underscore behind it.
    return "import_" if stage == "import" else stage.replace("-", "_")
