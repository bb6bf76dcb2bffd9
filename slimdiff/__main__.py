"""`python -m slimdiff train ...` is `slimdiff-train ...`: for machines where the package is not installed."""

import sys

from slimdiff import cli

COMMANDS = (
    "phantom",
    "fetch",
    "participants",
    "preprocess",
    "cache",
    "kfold",
    "priors",
    "train",
    "generate",
    "metrics",
    "figures",
)

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m slimdiff COMMAND ...; commands: {', '.join(COMMANDS)}")
    sys.exit(getattr(cli, sys.argv[1])(sys.argv[2:]))
