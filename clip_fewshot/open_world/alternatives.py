"""What may be chosen to say "unknown", and how the shots are divided to try it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from clip_fewshot.data.sampling import stratified_folds
from clip_fewshot.novelty import DETECTORS, Detector, DetectorPart, facts_of
from clip_fewshot.open_world.feature_spaces import FROZEN, is_tuned
from clip_fewshot.open_world.rank_detectors import Selection
from clip_fewshot.open_world.text_features import Texts
from clip_fewshot.types import IndexArray, LabelArray

CALIBRATION_FOLDS = 4


@dataclass(frozen=True)
class Alternative:
    """One thing that may be chosen.

    Attributes:
        detector: a key of DETECTORS, or the name of a foreign one.
        space: the features it looks at, see :mod:`clip_fewshot.open_world.feature_spaces`.
        n_neighbors: of detectors that have neighbours.
        foreign: the class or factory of a detector that is not the library's own.
    """

    detector: str
    space: str = FROZEN
    n_neighbors: int | None = None
    foreign: DetectorPart | None = None

    def __str__(self) -> str:
        k = "" if self.n_neighbors is None else f", k = {self.n_neighbors}"
        return f"{self.detector}, {self.space} features{k}"

    @property
    def part(self) -> DetectorPart:
        """What makes the detector."""
        return self.foreign or DETECTORS[self.detector]

    @property
    def needs_texts(self) -> tuple[str, ...]:
        """As of :class:`Detector`."""
        return facts_of(self.part).needs_texts

    @property
    def in_log_odds(self) -> bool:
        """Whether an earlier release gave these scores as probabilities, which do not compare with today's."""
        return bool(getattr(facts_of(self.part), "in_log_odds", False))

    @property
    def scheme(self) -> str | None:
        """As of :class:`Detector`; None where the features depend on the shots, which then cannot calibrate them."""
        return None if is_tuned(self.space) else facts_of(self.part).scheme

    def factory(self, texts: Texts | None = None) -> Callable[[], Detector]:
        """What makes the unfitted detector; ``texts`` for those that read them."""
        options: dict[str, Any] = {} if self.n_neighbors is None else {"n_neighbors": self.n_neighbors}
        return partial(self.part, **options, **{name: (texts or {}).get(name) for name in self.needs_texts})


@dataclass(frozen=True)
class NoveltyChoice:
    """Which detector on which features, chosen by hiding known classes in turn.

    Attributes:
        best: what was chosen.
        selection: every alternative with the AUROC it had on the hidden classes; None where nothing could be hidden.
    """

    best: Alternative
    selection: Selection[Alternative] | None = None

    @property
    def margin(self) -> float:
        """Lead in AUROC of the choice over the best alternative with another detector or features; 0 without one."""
        if self.selection is None:
            return 0.0
        by_name = {row.name: row.auroc for row in self.selection.table}
        kind = (self.best.detector, self.best.space)
        others = [auroc for name, auroc in by_name.items() if (name.detector, name.space) != kind]
        return by_name[self.best] - max(others) if others else 0.0

    def to_json(self) -> dict[str, Any]:
        """For results: the choice, its lead and the table."""
        features = {"features": self.best.space, "n_neighbors": self.best.n_neighbors, "chosen": str(self.best)}
        found = features | {"margin": self.margin, "selection": self.table()}
        return found | ({"selection_far": self.far_table()} if self.far_table() else {})

    def table(self) -> dict[str, float]:
        """AUROC of each alternative on the hidden classes, best first."""
        return {str(row.name): row.auroc for row in self.selection.table} if self.selection else {}

    def far_table(self) -> dict[str, float]:
        """The same on far pictures, in the same order; empty where none were looked at."""
        rows = self.selection.table if self.selection else ()
        return {str(row.name): row.far for row in rows if row.far is not None}


def split_folds(labels: LabelArray, seed: int) -> list[tuple[IndexArray, IndexArray]]:
    """(rows to fit on, rows held out), stratified, as many as the shots allow."""
    return stratified_folds(labels, min(CALIBRATION_FOLDS, count_fewest_shots(labels)), seed)


def count_fewest_shots(labels: LabelArray) -> int:
    """Pictures of the smallest class."""
    return int(np.unique(labels, return_counts=True)[1].min())
