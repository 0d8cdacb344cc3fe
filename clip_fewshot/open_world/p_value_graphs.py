"""Calibrated detectors as torch modules in float64, for export: (m, d) rows of length 1 to p-values.

What does not depend on the new pictures is computed by the code of :mod:`clip_fewshot.conformal` when a module is
built. The rest follows it step by step; tests compare both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.conformal.bags import ALONE
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.levels import FEW_PRIOR, LIKENESS, PLACE_PRIOR, SPREAD_PRIOR, Looks, Pairs
from clip_fewshot.conformal.neighbour_bags import KNNBags
from clip_fewshot.conformal.schemes import Full, LeaveOneOut
from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.ties import TIE
from clip_fewshot.neighbors.exact import SAME
from clip_fewshot.novelty.base import Detector
from clip_fewshot.open_world.score_graphs import ArrayModule, build_score, measure_distances
from clip_fewshot.types import FloatArray


def find_tie_range(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest score that each ties with, as :func:`clip_fewshot.evaluation.ties.tie_range`."""
    ends = scores * (1 - TIE), scores * (1 + TIE)
    return torch.minimum(*ends), torch.maximum(*ends)


def rank(members: Tensor, own: Tensor, interpolated: bool) -> Tensor:
    """(m, n) scores of members and of pictures -> (m,) share of them at least as strange, the picture among them.

    Args:
        interpolated: between the next lower and the next higher member, see :class:`Calibrated`.
    """
    least, greatest = find_tie_range(own)
    lower, at_most = members < least, members <= greatest
    count, n = lower.sum(1).double(), members.shape[1]
    ties = at_most.sum(1) - lower.sum(1)
    if not interpolated:
        return (count + ties + 1) / (n + 1)
    down = torch.where(lower, own - members, torch.inf).amin(1)
    up = torch.where(at_most, torch.inf, members - own).amin(1)
    inside = (down < torch.inf) & (up < torch.inf) & (ties == 0)
    share = torch.where(inside, down, 1.0) / torch.where(inside, down + up, 1.0)
    return (count + share * (ties + 1)) / (n + 1)


class LooksGraph(ArrayModule):
    """Which class a picture looks like, without each known one: see :class:`Looks`."""

    def __init__(self, looks: Looks) -> None:
        super().__init__()
        gone = np.where(looks.left > 0, 1 / np.where(looks.left > 0, looks.left, 1.0), np.nan)
        self.hold(
            means=looks.sums / np.where(looks.lengths > 0, looks.lengths, 1.0)[:, None],
            none=looks.lengths == 0,
            sums=looks.sums,
            kinds=looks.kinds,
            rows=looks.rows,
            gone=np.isnan(gone),
            inverse=np.nan_to_num(gone),
        )

    def find(self, unit: Tensor) -> Tensor:
        """(m, d) -> (m,)."""
        return self._near(unit).argmax(1)

    def forward(self, unit: Tensor) -> Tensor:
        """(m, d) -> (m, n)."""
        near = self._near(unit)
        best = near.topk(2, dim=1)
        first, second = (place[:, None] for place in best.indices.unbind(1))
        others = torch.where(first == self.kinds, second, first)
        bar = torch.where(first == self.kinds, best.values[:, 1:], best.values[:, :1])
        without = ((unit @ self.sums.T)[:, self.kinds] - unit @ self.rows.T) * self.inverse
        without = torch.where(self.gone, -torch.inf, without)
        return torch.where(without >= bar, self.kinds, others)

    def _near(self, unit: Tensor) -> Tensor:
        return torch.where(self.none, -torch.inf, unit @ self.means.T)


class LevelsGraph(ArrayModule):
    """Scores in units of an average class, each pair of pictures measured without both: see :class:`Pairs`."""

    def __init__(self, looks: Looks) -> None:
        super().__init__()
        kinds, n_classes = looks.kinds, len(looks.sums)
        counts = np.bincount(kinds, minlength=n_classes)
        self.n, self.rest = len(kinds), max(len(kinds) - 1, 1)
        self.looks = LooksGraph(looks)
        kept = (np.count_nonzero(counts) - (counts[kinds] == 1)).astype(np.float64)
        own = np.eye(n_classes)[kinds]
        self.hold(counts=counts.astype(np.float64), own=own, kept=kept, kinds=kinds, members=looks.members)

    def forward(self, members: Tensor, own: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """(m, n) scores of members and of pictures -> the same, moved and stretched."""
        means = members @ self.own / self.counts.clamp(min=1)
        off = members - means[:, self.kinds]
        squares = off**2 @ self.own
        less = off / (self.counts[self.kinds] - 1).clamp(min=1)
        fewer = off * (off + less)
        within, likeness = self._spreads(members, squares, fewer)
        centre = (members.sum(1, keepdim=True) - members) / self.rest
        pairs = means, squares, less, fewer, centre, within, likeness
        looks = self.members.expand(members.shape[0], -1)
        return self._move(members, looks, *pairs), self._move(own, self.looks(unit), *pairs)

    def _spreads(self, members: Tensor, squares: Tensor, fewer: Tensor) -> tuple[Tensor, Tensor]:
        inside = (squares.sum(1, keepdim=True) - fewer).clamp(min=0)
        away = members - members.mean(1, keepdim=True)
        total = (away**2).sum(1, keepdim=True) - away**2 * self.n / self.rest
        within = inside / (self.rest - self.kept).clamp(min=1)
        between = (total - inside) / (self.kept - 1).clamp(min=1) - within
        between = between.clamp(min=0) * self.kept / self.rest
        apart = between > 0
        return within, torch.where(apart, within / torch.where(apart, between, 1.0), torch.inf)

    def _move(
        self,
        scores: Tensor,
        looks: Tensor,
        means: Tensor,
        squares: Tensor,
        less: Tensor,
        fewer: Tensor,
        centre: Tensor,
        within: Tensor,
        likeness: Tensor,
    ) -> Tensor:
        same = (looks == self.kinds).double()
        left = self.counts[looks] - same
        # No clamp of one tensor by two ranges: torch 2.13's exporter joins both to a graph that is out of order.
        low, high = LIKENESS
        bounded = torch.where(likeness < low, low, torch.where(likeness > high, high, likeness))
        least = FEW_PRIOR * bounded / left.clamp(min=1) ** 2
        prior = torch.maximum(torch.where(likeness > PLACE_PRIOR, PLACE_PRIOR, likeness), least)
        place = (left * (means.gather(1, looks) - same * less) + prior * centre) / (left + prior)
        inside = (squares.gather(1, looks) - same * fewer).clamp(min=0)
        spread = (inside + SPREAD_PRIOR * within) / ((left - 1).clamp(min=0) + SPREAD_PRIOR)
        wide = spread > 0
        stretch = torch.where(wide, within / torch.where(wide, spread, 1.0), 1.0).sqrt()
        return centre + (scores - place) * stretch


class FixedLevelsGraph(ArrayModule):
    """The same of many known pictures, measured once for all new ones: what remains is a shift and a factor."""

    def __init__(self, looks: Looks, alone: FloatArray) -> None:
        super().__init__()
        self.looks, every = LooksGraph(looks), np.arange(len(looks.sums))
        pairs = Pairs.measure(alone[None], looks.kinds, len(looks.sums))
        whole = pairs.with_all(alone)
        nothing, one = np.zeros((1, len(alone))), np.zeros((1, len(every)))
        shift, own_shift = pairs.move(nothing, looks.members[None]), whole.move(one, every[None])
        factor = pairs.move(nothing + 1, looks.members[None]) - shift
        own_factor = whole.move(one + 1, every[None]) - own_shift
        self.hold(shift=shift, factor=factor, own_shift=own_shift[0], own_factor=own_factor[0])

    def forward(self, members: Tensor, own: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`LevelsGraph`."""
        look = self.looks.find(unit)[:, None]
        return self.shift + self.factor * members, self.own_shift[look] + self.own_factor[look] * own


class LeftOutGraph(ArrayModule):
    """Scores of known pictures without each, and of new ones under the same detectors: see :class:`LeaveOneOut`."""

    def __init__(self, scheme: LeaveOneOut) -> None:
        super().__init__()
        self.whole = None if scheme.whole is None else build_score(scheme.whole, without=True)
        self.refits = nn.ModuleList(build_score(detector) for detector in scheme.detectors)
        members: FloatArray = np.empty(len(scheme.bag))
        parts = np.zeros(len(scheme.bag), dtype=np.int64)
        if scheme.whole is not None:
            members = scheme.whole.loo_scores_
        for i, (part, detector) in enumerate(zip(scheme.parts, scheme.detectors, strict=False)):
            members[part], parts[part] = detector.score_samples(scheme.bag.rows[part]), i
        self.alone = members
        self.hold(members=members, parts=parts)

    def forward(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """(m, d) -> (m, n) of members, (m, n) of pictures."""
        if self.whole is not None:
            own = self.whole.without(unit)
        else:
            own = torch.stack([refit(unit) for refit in self.refits], dim=1)[:, self.parts]
        return self.members.expand(own.shape[0], -1), own


class NearBagGraph(ArrayModule):
    """Scores of known pictures beside each new one: it becomes a neighbour of some. See :class:`KNNBags`."""

    def __init__(self, bag: KNNBags, k: int) -> None:
        super().__init__()
        self.k, self.mean = k, bag.mean
        near = np.sqrt(bag.squared[:, :k])
        self.alone: FloatArray = -(near.mean(axis=1) if bag.mean else near[:, -1])
        self.hold(rows=bag.rows, near=near)

    def forward(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """(m, d) -> (m, n) of members, (m, n) of the picture itself."""
        far = measure_distances(unit, self.rows)
        nearest = far.topk(self.k, dim=1, largest=False).values
        last = self.near[:, -1]
        if self.mean:
            members = self.near.sum(1) + (far - last).clamp(max=0)
            return -members / self.k, -nearest.mean(1, keepdim=True).expand_as(far)
        before = self.near[:, -2] if self.k > 1 else torch.zeros_like(last)
        return -torch.maximum(before, torch.minimum(last, far)), -nearest[:, -1:].expand_as(far)


class CalibratedGraph(ArrayModule):
    """p-values of :class:`Calibrated`, each picture as if it had come alone.

    Raises:
        UsageError: a detector without a module, or known pictures that are too few for one.
    """

    def __init__(self, calibrated: Calibrated) -> None:
        super().__init__()
        scheme: Any = calibrated.scheme_
        n, self.per_class = len(scheme.places), calibrated.per_class
        classes = calibrated.classes_ if self.per_class or scheme.asks_class else []
        graphs, which = _build_comparisons(scheme, [*classes] or [None])
        self.compared = nn.ModuleList(graphs)
        which = which if self.per_class else [*range(len(self.compared))]
        members = [np.flatnonzero(scheme.labels == one) if self.per_class else np.arange(n) for one in classes]
        self.asked = [
            *zip(which, (torch.from_numpy(one) for one in members or [np.arange(n)] * len(which)), strict=False)
        ]
        looks = calibrated.looks
        self.interpolated = looks is not None and n <= ALONE
        self.levels = nn.ModuleList()
        if looks is not None:
            each = LevelsGraph(looks) if n <= ALONE else None
            self.levels.extend(each or FixedLevelsGraph(looks, one.alone) for one in graphs)
        self.hold(everything=calibrated.bag_.everything)

    def forward(self, unit: Tensor) -> Tensor:
        """(m, d) -> (m,)."""
        compared, found = [one(unit) for one in self.compared], []
        for place, members in self.asked:
            known, own = compared[place]
            if len(self.levels):
                known, own = self.levels[place](known, own, unit)
            found.append(rank(known[:, members], own[:, members], self.interpolated))
        p = torch.stack(found, dim=1).amax(1)
        copy = 2 - 2 * (unit @ self.everything.T).amax(1) <= SAME**2
        return torch.where(copy, 1.0, p)


class CrossGraph(ArrayModule):
    """p-values of folds, each with a detector: see :func:`clip_fewshot.conformal.p_values.cross_p_values`."""

    def __init__(self, detectors: Sequence[Detector], calibration: Sequence[FloatArray]) -> None:
        super().__init__()
        self.scores = nn.ModuleList(map(build_score, detectors))
        self.n = sum(map(len, calibration))
        self.hold(**{f"known_{i}": scores for i, scores in enumerate(calibration)})

    def forward(self, rows: Sequence[Tensor]) -> Tensor:
        """(m, d) rows as each detector sees them -> (m,)."""
        counts = torch.ones_like(rows[0][:, 0])
        for i, (unit, score) in enumerate(zip(rows, self.scores, strict=True)):
            greatest = find_tie_range(score(unit))[1]
            counts = counts + (getattr(self, f"known_{i}") <= greatest[:, None]).sum(1)
        return counts / (self.n + 1)


def _build_comparisons(scheme: Any, labels: Sequence[Any]) -> tuple[list[LeftOutGraph] | list[NearBagGraph], list[int]]:
    """The different ways to compare, and which of them each label has."""
    if isinstance(scheme, LeaveOneOut) and scheme.shortcut is None:
        return [LeftOutGraph(scheme)], [0] * len(labels)
    if isinstance(scheme, Full) and isinstance(scheme.shortcut, KNNBags):
        k = scheme.shortcut.n_neighbors(labels)
        kinds = sorted(set(k.values()))
        return [NearBagGraph(scheme.shortcut, one) for one in kinds], [kinds.index(k[label]) for label in labels]
    fix, got = (
        "fit again with another detector",
        f"{type(scheme).__name__} of {number(len(scheme.places), 'known picture')}",
    )
    raise UsageError(expected="a detector that is not fitted again for each picture", got=got, fix=fix, where="export")
