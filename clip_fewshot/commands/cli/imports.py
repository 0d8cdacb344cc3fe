"""The imports that a command needs for its work, and `--help` does not."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def import_quickly() -> Iterator[None]:
    """Inside, no garbage is looked for: imports make a million objects and drop none of them.

    Later collections pass over what was imported, too. To look cost a command a fifth of its start (0.5 s of CPU time).
    We rejected higher thresholds for the whole command: training would keep dead tensors for longer. Where torch is
    there already, nothing is changed.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
