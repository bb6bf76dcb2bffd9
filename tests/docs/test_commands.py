"""docs/reference/commands.md matches the parsers."""

from pathlib import Path

from slimdiff import stages
from slimdiff.command_reference import REFERENCE, command_reference

ROOT = Path(__file__).parents[2]


def test_the_reference_of_the_commands_is_current():
    written = (ROOT / REFERENCE).read_text(encoding="utf-8")
    assert written == command_reference(), "run python -m slimdiff.command_reference"


def test_every_option_is_in_it_with_a_meaning():
    import argparse

    text = command_reference()
    for name in stages.names():
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        parser = stages.fill(name, argparse.ArgumentParser(add_help=False))
        for action in parser._actions:
            rows = [line for line in section.splitlines() if line.startswith("| `")]
            own = [
                line
                for line in rows
                if all(option in line for option in action.option_strings or [action.dest])
            ]
            assert own or not action.option_strings, (name, action.dest)
    assert not [
        line for line in text.splitlines() if line.startswith("| `-") and line.rstrip().endswith("|  |")
    ]
