"""The commands: `slimdiff <stage> ...`, and `slimdiff-<stage> ...` for each stage (`slimdiff/stages/`).

Errors are one message on standard error and exit status 2, without half-written files. With SLIMDIFF_DEBUG set, the
traceback follows. A stop signal (Ctrl-C, SIGTERM, SIGHUP) ends a command with one sentence and exit status 128 + its
number, once temporary files are removed.
"""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

try:
    from slimdiff import __version__, stages
    from slimdiff.files import printable
except KeyboardInterrupt:
    sys.exit(130)

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
UNDISTURBED_S = 10.0
"""Time after a stop signal in which further ones are ignored: a workflow engine sends several, and the first one is
removing temporary files."""
AFTER_A_STOP = "complete files are kept, half-written ones are removed; run it again from its beginning"


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
    parser = stages.fill(stage, parser)
    if getattr(stages.module_of(stage), "PASSES_ON", False):
        options, options.further = parser.parse_known_args(argv)
    else:
        options = parser.parse_args(argv)
    with _stoppable() as stop:
        try:
            _refuse_other_bytes(argv)
            study = stages.study_of(stage, options)
            stages.module_of(stage).run(study, options)
        except (Exception, KeyboardInterrupt) as error:
            # A signal may have closed the pipe to which the command writes while it ends.
            if stop.number or isinstance(error, KeyboardInterrupt):
                return _stopped(stage, prog, stop.number or signal.SIGINT)
            if not isinstance(error, (OSError, ValueError, RuntimeError, ImportError)):
                raise
            print(f"{prog}: error: {printable(error)}", file=sys.stderr)
            if os.environ.get("SLIMDIFF_DEBUG"):
                raise
            return 2
    return 0


def _stopped(stage: str, prog: str, number: int) -> int:
    """Say what was kept of a stopped stage, and how to resume it; returns the exit status."""
    kept = getattr(stages.module_of(stage), "AFTER_A_STOP", AFTER_A_STOP)
    with suppress(OSError):
        print(f"\n{prog}: stopped; {kept}", file=sys.stderr, flush=True)
    return 128 + number


@dataclass
class _Stop:
    """The stop signal that this process received."""

    number: int = 0
    ignored_until: float = 0.0

    def __call__(self, number: int, frame) -> None:
        if time.monotonic() >= self.ignored_until:
            self.number, self.ignored_until = number, time.monotonic() + UNDISTURBED_S
            raise KeyboardInterrupt


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """While the block runs, a stop signal raises KeyboardInterrupt, so that temporary files are removed."""
    stop, earlier = _Stop(), {}
    for number in STOP_SIGNALS:
        # Not outside the main thread. An ignored signal (nohup, a job in the background) stays ignored.
        with suppress(ValueError):
            if signal.getsignal(number) is not signal.SIG_IGN:
                earlier[number] = signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


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
