"""Joint diffusion of FLAIR slices and lesion masks for small cohorts."""

import os

__version__ = "0.1.0"

# torch reads this when it is imported. Threads that spin while they wait hold up a training on a busy machine by far
# more than the other work does (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
