"""A library that dies at one case, hangs at another, breaks the oracle at a third and is wrong at a fourth."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from tests.attack.harness import Outcome


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    if number == 1:
        os._exit(7)
    if number == 2:
        time.sleep(60)
    if number == 3:
        raise ZeroDivisionError
    return Outcome(number != 4, "same" if number != 4 else "read differently", "" if number != 4 else "case 4")
