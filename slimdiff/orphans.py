"""Child processes that do not outlive the process that started them, also if it was killed with SIGKILL."""

import os
import threading
import time
from collections.abc import Callable

POLL_S = 0.5


def end_with_parent(parent: int, end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Call `end` in a thread as soon as process `parent`, which started this one, is gone.

    A child that lives on keeps its parent's pipes open, and a workflow waits for them for ever. On Linux and macOS the
    system gives an orphan another parent; on Windows this function has no effect.

    Args:
        parent: the parent's process id, as the parent knows it: it may be gone before this call.
        end: what ends this process; by default at once.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        end()

    threading.Thread(target=watch, daemon=True).start()
