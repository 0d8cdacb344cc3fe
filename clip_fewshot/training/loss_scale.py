"""Dynamic loss scaling for float16 activations."""

from __future__ import annotations

from dataclasses import dataclass

from clip_fewshot.errors import DivergedError

PATIENCE = 2000  # steps without overflow before the factor is doubled


@dataclass
class LossScale:
    """The factor on gradients that keeps small ones above float16's least number (Paulius Micikevicius et al., "Mixed
    Precision Training", 2018, section 3.2): halved at each overflow, whose step is left out, doubled after a long rest.

    Attributes:
        factor: a power of two; 1 where nothing is scaled.
        calm: steps since the last change.
        dynamic: whether the factor moves.
    """

    factor: float = 1.0
    calm: int = 0
    dynamic: bool = False

    @classmethod
    def starting(cls) -> LossScale:
        """For float16."""
        return cls(2.0**16, 0, True)

    def take(self, finite: bool) -> bool:
        """Learn whether a step's gradient was finite; whether to take the step.

        Raises:
            DivergedError: it was not, and the factor is not to blame.
        """
        if finite:
            self.calm += 1
            if self.dynamic and self.calm == PATIENCE:
                self.factor, self.calm = 2 * self.factor, 0
            return True
        if not self.dynamic or self.factor <= 1:
            raise DivergedError("a finite gradient", "one that is not", "lower the learning rate", "training")
        self.factor, self.calm = self.factor / 2, 0
        return False
