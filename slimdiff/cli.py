"""The commands: `slimdiff <stage> ...`, and `slimdiff-<stage> ...` for each stage (`slimdiff/stages/`).

Errors are one message on standard error and exit status 2, without half-written files. With SLIMDIFF_DEBUG set, the
traceback follows.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import partial

from slimdiff import __version__, stages
from slimdiff.files import printable


def main(argv: list[str] | None = None) -> int:
    """`slimdiff <stage> ...`: the stage's command; without a stage, help, version or a completion script."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and not argv[0].startswith("-") and argv[0] in stages.names():
        return run_stage(argv[0], argv[1:], f"slimdiff {argv[0]}")
    parser = _all_stages()
    options = parser.parse_args(argv)
    if getattr(options, "stage", None) is None:
        parser.print_help()
    return 0


def run_stage(stage: str, argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse a stage's options, run it, and report an error in one message; returns the exit status."""
    argv = _dashed(sys.argv[1:] if argv is None else argv)
    prog = prog or f"slimdiff-{stage}"
    stage, argv = _elsewhere(stage, argv)
    description = stages.module_of(stage).__doc__
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options = stages.fill(stage, parser).parse_args(argv)
    try:
        _refuse_other_bytes(argv)
        study = stages.study_of(stage, options)
        stages.module_of(stage).run(study, options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"{prog}: error: {printable(error)}", file=sys.stderr)
        if os.environ.get("SLIMDIFF_DEBUG"):
            raise
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 130
    return 0


def __getattr__(name: str) -> Callable[[list[str] | None], int]:
    """The entry point of a stage: `slimdiff.cli:train` is `slimdiff-train`."""
    stage = name.removesuffix("_").replace("_", "-")
    if name.startswith("__") or stage not in stages.names():
        raise AttributeError(name)

    return partial(run_stage, stage)


def _dashed(argv: list[str]) -> list[str]:
    """Option names with dashes: the founding commands' `--z_bins` and `--out_dir` are `--z-bins` and `--out-dir`."""
    return [re.sub(r"^--[a-z_]+", lambda found: found[0].replace("_", "-"), word) for word in argv]


def _refuse_other_bytes(argv: list[str]) -> None:
    """Raise ValueError for an argument, usually a path, that no output or record can hold."""
    for word in argv:
        if word != printable(word):
            raise ValueError(
                f"{printable(word)}: this argument has bytes that are not UTF-8 (shown as \\xNN); rename the file"
            )


def _elsewhere(stage: str, argv: list[str]) -> tuple[str, list[str]]:
    """A sub-command that another stage does (`slimdiff-metrics plot` is `slimdiff-figures`)."""
    moved = getattr(stages.module_of(stage), "ELSEWHERE", {})
    if argv and argv[0] in moved:
        other, *more = moved[argv[0]]
        return other, [*more, *argv[1:]]
    return stage, argv


def _all_stages() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slimdiff", description="Paired MRI slices and lesion masks from a compact diffusion model."
    )
    parser.add_argument("--version", action="version", version=f"slimdiff {__version__}")
    try:
        import shtab

        shtab.add_argument_to(parser, ["--print-completion"], help="print a completion script for your shell")
    except ImportError:
        # A node with the core's packages only.
        pass
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", title="stages, in the order of the chain")
    for stage in stages.names():
        stages.fill(stage, commands.add_parser(stage, help=stages.summary(stage)))
    return parser
