"""Choose the penalty of the linear probe on held-out folds: coarse to fine along C, each fit near its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.probes.preconditioner import Blocks
from clip_fewshot.probes.softmax import SoftmaxProblem
from clip_fewshot.probes.solver import descend
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

LOWEST, HIGHEST = -6.0, 6.0  # decades of C; CLIP's own search range, wide enough that a best value lies inside
COARSE = (-6.0, -4.0, -2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)  # below C = 1 a solution is one or two evaluations away
FINEST = 0.125  # decades; 97 values over the range, as many as CLIP's grid
WORTHLESS = 0.01  # nats of held-out loss that are not worth a larger C
# Decades of C for rows of mean squared length 1: its usual value, and how far around (docs/figures/logistic_probe.md).
USUAL_EXPONENT, EXPONENT_SD = 3.3, 1.5
SEARCH_GAP = 2e-4  # seeming relative distance from the optimum while searching: moves the held-out loss by 1e-3
LEAST_LENGTH = 1e-12  # squared, of rows that are all the same
WALK = 2.0  # decades below the chosen C from where the solution for all rows is followed up to it
WALK_GAP = 0.1
SIDE_BY_SIDE_COST = 20_000_000  # multiplications per evaluation of all folds; below, they are solved side by side

Folds = Sequence[tuple[IndexArray, IndexArray]]  # (train rows, validation rows)


class SearchedC(NamedTuple):
    """One value of the search: accuracy and mean -ln p (nats) over all held-out rows."""

    C: float
    accuracy: float
    nll: float


class UsualC(NamedTuple):
    """A log-normal prior on C, beside the loss of ``n_held`` pictures."""

    exponent: float  # its median
    n_held: int

    @classmethod
    def of(cls, problem: SoftmaxProblem, folds: Folds) -> UsualC:
        """The longer the rows, the stronger the penalty that does as much."""
        length = float((problem.rows[0, :, :-1].astype(np.float64) ** 2).sum(axis=1).mean())
        return cls(USUAL_EXPONENT - float(np.log10(max(length, LEAST_LENGTH))), sum(len(held) for _, held in folds))

    def cost(self, C: float) -> float:
        """-ln of its density, less that of the median, per held-out picture."""
        return float((np.log10(C) - self.exponent) ** 2 / (2 * EXPONENT_SD**2) / self.n_held)


class PenaltySearch(NamedTuple):
    """Every value tried, by C; the chosen one; (1, c, r + 1) weights for all rows that are near the best at it."""

    tried: tuple[SearchedC, ...]
    chosen: SearchedC
    weights: FloatArray


@dataclass
class WarmStarts:
    """Solutions of one problem along C, found so far."""

    problem: SoftmaxProblem
    guide: WarmStarts | None = None  # a path through similar rows that was there before
    known: dict[float, FloatArray] = field(default_factory=dict)  # by the exponent of C
    missed: dict[float, FloatArray] = field(default_factory=dict)  # solution less what was drawn for it
    blocks: Blocks | None = None

    def follow(self, exponent: float, gap: float) -> FloatArray:
        """The weights at C = 10**exponent, now known."""
        solution = descend(self.problem, float(10.0**exponent), self.start(exponent), gap, self.blocks)
        if self.guide is None:
            self.missed[exponent] = solution.weights - self._drawn(exponent)
        self.known[exponent], self.blocks = solution.weights, solution.blocks
        return solution.weights

    def start(self, exponent: float) -> FloatArray:
        """Weights to begin from at C = 10**exponent: drawn through those known, plus what the guide missed that way.

        They run nearly straight along log C, and what they bend the paths of two folds have in common.
        """
        drawn = self._drawn(exponent)
        if self.guide is None or len(self.known) < 2:
            return drawn
        return np.asarray(drawn + self.guide.missed[exponent].mean(axis=0))

    def _drawn(self, exponent: float) -> FloatArray:
        """The straight line through the two nearest exponents, one on each side where there are."""
        near = sorted(self.known, key=lambda e: abs(e - exponent))
        if len(near) < 2:
            return self.known[near[0]] if near else self.problem.start()
        below, above = [e for e in near if e < exponent], [e for e in near if e > exponent]
        a, b = (below[0], above[0]) if below and above else near[:2]
        return np.asarray(self.known[a] + (exponent - a) / (b - a) * (self.known[b] - self.known[a]))


def search_penalty(problem: SoftmaxProblem, folds: Folds) -> PenaltySearch:
    """Try C in decades LOWEST..HIGHEST, coarse first, then at halving steps beside the best.

    The coarse pass goes upward and ends once the held-out loss has fallen and turned. It may rise before it falls:
    where the folds do not divide the classes evenly, the first thing learned is which class is the rarer one in the
    training part, and that is the more frequent one in the held-out part.
    """
    tried: dict[float, SearchedC] = {}
    usual = UsualC.of(problem, folds)
    paths, held = _paths(problem, folds)
    for exponent in COARSE:
        tried[exponent] = _validate(paths, held, exponent)
        losses = [result.nll for result in tried.values()]
        if min(losses) < losses[0] - WORTHLESS and losses[-1] > min(losses) + WORTHLESS:
            break
    step = 1.0
    while step >= FINEST:
        centre = _best_exponent(tried, usual)
        for exponent in sorted({max(centre - step, LOWEST), min(centre + step, HIGHEST)} - tried.keys()):
            tried[exponent] = _validate(paths, held, exponent)
        step /= 2
    best = _best_exponent(tried, usual)
    weights = _for_all_rows(problem, paths[0], best)
    return PenaltySearch(tuple(tried[exponent] for exponent in sorted(tried)), tried[best], weights)


def select_c(search: Sequence[SearchedC], usual: UsualC) -> SearchedC:
    """The smallest C (``search`` is sorted by it) whose cost is within WORTHLESS of the best.

    The cost is the held-out loss and that of a prior, a few nats for all pictures together: four pictures alone are
    nearly as well off with C = 1 as with C = 1e6, and a hundred say what they need.

    We rejected accuracy as the criterion: on 7 x 16 digit scans it picked equally accurate probes with a test loss of
    .23 against .16, and it ended at an end of the range in 3 runs of 10 where this did in none.
    """
    costs = [one.nll + usual.cost(one.C) for one in search]
    return next(one for one, cost in zip(search, costs, strict=True) if cost <= min(costs) + WORTHLESS)


def split_stratified(labels: LabelArray, n_folds: int, seed: int) -> Folds:
    """``n_folds`` folds, at most as many as the largest class has rows; each class is shared out in turn."""
    if n_folds < 2:
        raise UsageError(expected="at least 2 folds", got=str(n_folds), fix="raise it, or give C", where="LinearProbe")
    n_folds = min(n_folds, int(np.bincount(labels).max()))
    order = generator(seed, "probe folds").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % n_folds  # one round over all classes keeps the folds equally large
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_folds)]


def drop_unusable(folds: Folds, labels: LabelArray) -> Folds:
    """Folds without the validation rows whose class the training part lacks: no C could get them right."""
    kept = [(train, held[np.isin(labels[held], labels[train])]) for train, held in folds]
    return [(train, held) for train, held in kept if len(held) and len(np.unique(labels[train])) > 1]


def _paths(problem: SoftmaxProblem, folds: Folds) -> tuple[list[WarmStarts], list[SoftmaxProblem]]:
    """Problems of the training parts and of the held-out parts: all folds in one where small, else one for each."""
    cost = sum(len(train) for train, _ in folds) * problem.rows.shape[2] * problem.n_classes
    groups = [folds] if cost < SIDE_BY_SIDE_COST else [[fold] for fold in folds]
    paths: list[WarmStarts] = []
    for group in groups:
        paths.append(WarmStarts(problem.subsets([train for train, _ in group]), paths[0] if paths else None))
    return paths, [problem.subsets([held for _, held in group]) for group in groups]


def _best_exponent(tried: dict[float, SearchedC], usual: UsualC) -> float:
    best = select_c([tried[exponent] for exponent in sorted(tried)], usual)
    return next(exponent for exponent, result in tried.items() if result is best)


def _validate(paths: Sequence[WarmStarts], held: Sequence[SoftmaxProblem], exponent: float) -> SearchedC:
    """Held-out accuracy and loss at C = 10**exponent."""
    hits, loss, n_held = 0, 0.0, 0
    for path, rows in zip(paths, held, strict=True):
        logits, real = rows.logits(path.follow(exponent, SEARCH_GAP)), rows.real[:, :, 0] > 0
        hits += int(((logits.argmax(axis=2) == rows.labels) & real).sum())
        loss += float(rows.softmax(logits).losses.sum(dtype=np.float64))
        n_held += int(real.sum())
    return SearchedC(float(10.0**exponent), hits / n_held, loss / n_held)


def _for_all_rows(problem: SoftmaxProblem, guide: WarmStarts, exponent: float) -> FloatArray:
    """(1, c, r + 1) weights near the optimum for all rows: the first fold's, led up the last decades beside it.

    Begun at the chosen C instead, the rows that the fold has not seen cost 70 steps of conjugate gradients where this
    takes 15 (100 classes x 20 rows x 512 features).
    """
    walk = sorted(e for e in guide.known if exponent - WALK <= e < exponent and e in COARSE)
    along = {e: guide.known[e].mean(axis=0, keepdims=True) for e in (*walk, exponent)}
    weights, blocks, before = along[min(along)], None, min(along)
    for e in walk:
        solution = descend(problem.single, float(10.0**e), weights + along[e] - along[before], WALK_GAP, blocks)
        weights, blocks, before = solution.weights, solution.blocks, e
    return np.asarray(weights + along[exponent] - along[before])
