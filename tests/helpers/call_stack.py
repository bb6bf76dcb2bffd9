"""The functions of the package that are being called."""

import sys
from pathlib import Path

import slimdiff

PACKAGE = Path(slimdiff.__file__).parent


def frames_of_package() -> list[str]:
    """Names of the package's functions on the stack, the outermost first."""
    names, frame = [], sys._getframe(1)
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            names.insert(0, frame.f_code.co_name)
        frame = frame.f_back
    return names
