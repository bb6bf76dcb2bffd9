"""Joint diffusion of FLAIR slices and lesion masks for small cohorts.

from slimdiff import SliceStore, load_model, sample
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimdiff.data.store import SliceStore as SliceStore
    from slimdiff.generation.generator import sample as sample
    from slimdiff.model.checkpoint import load_model as load_model

__version__ = "0.2.0.dev0"

# torch reads this when it is imported. Threads that spin while they wait hold up a training on a busy machine by far
# more than the other work does (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PUBLIC = {
    "SliceStore": "slimdiff.data.store",
    "load_model": "slimdiff.model.checkpoint",
    "sample": "slimdiff.generation.generator",
}
"""Names of this package and the modules that define them. They are imported on first use, so that `--help` of a command
does not wait for torch."""


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
