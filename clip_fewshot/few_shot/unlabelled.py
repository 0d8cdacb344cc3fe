"""Unlabelled pictures beside the shots, and what became of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clip_fewshot.data.names import number
from clip_fewshot.types import FloatArray


@dataclass(frozen=True)
class Unlabelled:
    """Pictures that may teach, as the frozen tower sees them.

    Attributes:
        features: (q, d) of those that may.
        copies: how many were left out as copies of shots or of one another.
        unknown: how many were left out because they show something else.
    """

    features: FloatArray
    copies: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class UnlabelledUse:
    """What unlabelled pictures did to a classifier.

    Attributes:
        used, copies, unknown: numbers of pictures: they add up to those that were given.
        moved: share of the used ones whose class they changed, in [0, 1].
        share: how far the classifier follows them, in [0, 1].
        agreement: share of the shots that lie nearest to the unlabelled pictures of their own class.
        refused: the classifier is the one without them, because that share is too low.

    Example:
        >>> from clip_fewshot.few_shot.unlabelled import UnlabelledUse
        >>> print(UnlabelledUse(used=90, copies=4, unknown=6, moved=0.1, share=1.0, agreement=0.97, refused=False))
        90 of 100 unlabelled pictures used (4 copies and 6 unknown left out); 10.0 % of them changed their class
    """

    used: int
    copies: int
    unknown: int
    moved: float
    share: float
    agreement: float
    refused: bool

    @classmethod
    def of(cls, given: Unlabelled, probe: object) -> UnlabelledUse:
        """What a fitted probe says of them."""
        learned = {name: getattr(probe, f"{name}_") for name in ("moved", "share", "agreement", "refused")}
        return cls(len(given.features), given.copies, given.unknown, **learned)

    def to_json(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)

    def __str__(self) -> str:
        n = self.used + self.copies + self.unknown
        left = f"({number(self.copies, 'copy', 'copies')} and {self.unknown:,} unknown left out)"
        if self.refused:
            return (
                f"{number(n, 'unlabelled picture')} not used: with them only {self.agreement:.1%} of the shots lie "
                f"where their class does {left}"
            )
        moved = f"{100 * self.moved:.1f} % of them changed their class"
        return f"{self.used:,} of {number(n, 'unlabelled picture')} used {left}; {moved}"
