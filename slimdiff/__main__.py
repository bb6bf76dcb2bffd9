"""`python -m slimdiff train ...` is `slimdiff train ...`, for machines where the package is not installed."""

import sys

from slimdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
