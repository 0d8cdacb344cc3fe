"""What the workers of the tests are asked to do; light, as each of them imports it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from clip_fewshot.errors import DivergedError


@dataclass(frozen=True)
class Tasks:
    """An object that is sent to workers."""

    load: bytes = b""

    def add(self, a: float, b: float) -> float:
        print("a line that must not get into the answers")
        return a + b

    def size(self) -> tuple[int, int]:
        """Who answers, and how much it was sent."""
        return os.getpid(), len(self.load)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def torch_threads(self) -> int:
        import torch

        return torch.get_num_threads()

    def diverge(self) -> None:
        raise DivergedError(expected="a finite loss", got="nan", fix="lower the rates", where="step 3")

    def stumble(self) -> None:
        raise KeyError("a defect")

    def lack_memory(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def answer_with_half(self) -> object:
        """Something that cannot be pickled to its end."""
        return [b"x" * 100_000, lambda: None]
