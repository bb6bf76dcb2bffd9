"""The reference of the commands, written from their parsers: `python -m slimdiff.command_reference`."""

import argparse
import inspect
from pathlib import Path

from slimdiff import stages

REFERENCE = Path("docs/reference/commands.md")

INTRODUCTION = """# Commands

Every stage is a command, `slimdiff STAGE` or `slimdiff-STAGE`, and, where the workflow runs it, a rule of this name. A
command does the whole stage, or the part that its options name. `--config` is a study: a YAML or JSON file, or JSON
text. Names of options may have `_` instead of `-`.

- The workflow runs these commands for you, in order and only where something is missing or has changed: prefer
  `snakemake --cores all`. By hand a stage needs the results of the stages before it.
- An error is one message on standard error, and exit status 2. Ctrl-C ends a command with 130; what is kept, and how to
  resume, is its last line.
- `slimdiff --help` lists the stages, `slimdiff STAGE --help` shows these options, `slimdiff --version` the version.
- `slimdiff --print-completion bash` (zsh, fish, …) prints a script that completes names of commands and options.

This file is generated: `python -m slimdiff.command_reference`.

| command | what it does |
|---|---|
{commands}
"""


def command_reference() -> str:
    """Every command with its options, as Markdown."""
    names = stages.names()
    rows = "\n".join(f"| [`{name}`](#{name}) | {_cell(stages.summary(name))} |" for name in names)
    return INTRODUCTION.format(commands=rows) + "".join(f"\n{_command(name)}" for name in names)


def _command(name: str) -> str:
    parser = stages.fill(name, argparse.ArgumentParser(prog=f"slimdiff {name}", add_help=False))
    text = inspect.cleandoc(stages.module_of(name).__doc__)
    lines = [f"## {name}", "", text, ""]
    for group in parser._action_groups:
        if not group._group_actions:
            continue
        if group.title and group.title not in ("options", "positional arguments"):
            lines += [f"**{group.title[0].upper()}{group.title[1:]}**", ""]
        lines += ["| option | meaning |", "|---|---|"]
        lines += [f"| {_option(action)} | {_meaning(action)} |" for action in group._group_actions]
        lines += [""]
    moved = getattr(stages.module_of(name), "ELSEWHERE", {})
    for own, (stage, *more) in moved.items():
        lines += [f"`slimdiff {name} {own}` is `{' '.join(['slimdiff', stage, *more])}`.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _option(action: argparse.Action) -> str:
    """Its names and what follows them."""
    value = argparse.HelpFormatter("")._format_args(action, _metavar(action)) if action.nargs != 0 else ""
    return f"`{_cell(' '.join([', '.join(action.option_strings), value]).strip())}`"


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None and not action.metavar:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper()


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default}
    return _cell(f"{text} (required)" if action.required and action.option_strings else text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the file below the current folder."""
    REFERENCE.write_text(command_reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
