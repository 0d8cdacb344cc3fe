"""Pictures that come together are judged together: what a new class is like shows in several of its pictures.

Under the detector alone each picture is one draw, and half of an unseen class may look as ordinary as the shots. Beside
one another they show that they lie apart: a way from neighbour to neighbour leads from a known picture to the shots
within its class, and from a new class not before it has lost itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.preprocessing import normalize

from clip_fewshot.neighbors.exact import find_distinct, find_nearest, find_nearest_others
from clip_fewshot.novelty.base import Detector
from clip_fewshot.types import FloatArray, IndexArray

TIES = 5  # 10 and 20 find less where few pictures are new: they lead out of small classes
LEAK = 0.1  # share of a usual row's ties by which a way ends at each step; .3 and 1 find less, .01 little of lone ones
STEPS = 64  # longer ways carry next to nothing
FROM_AT_A_TIME = 256  # known pictures whose ways are counted at a time
LOST = 1e-12  # what reaches a picture to which no way leads


class Asked(NamedTuple):
    """Scores under one detector: (h,) of the known pictures that it has not seen, (m,) of the batch."""

    held_out: FloatArray
    batch: FloatArray


def ask_together(
    detectors: Sequence[Detector], known: FloatArray, left_out: Sequence[IndexArray], X: FloatArray
) -> Iterator[Asked]:
    """What each detector, fitted on (n, d) ``known`` without its rows of ``left_out``, and company say.

    Args:
        X: (m, d) the batch; copies in it count once.
    """
    unit = normalize(X)
    order = np.array(sorted(range(len(X)), key=lambda i: unit[i].tobytes()), dtype=np.int64)
    batch = X[order[find_distinct(unit[order])]]
    place = find_nearest(normalize(batch), unit, 1).neighbours[:, 0]
    rows, n = np.concatenate([known, batch]), len(known)
    reached, own = count_ways(normalize(rows), n, left_out)
    for detector, left, ways in zip(detectors, left_out, reached, strict=True):
        asked, seeds = np.concatenate([left, np.arange(n, len(rows))]), np.delete(np.arange(n), left)
        company = _standardise(_log(ways[asked]), _log(ways[seeds] - own[seeds]))
        scores = _standardise(detector.score_samples(rows[asked]), detector.loo_scores_) + np.minimum(company, 0.0)
        yield Asked(scores[: len(left)], scores[len(left) :][place])


def ask_held_out(detector: Detector, known: FloatArray, held_out: FloatArray, X: FloatArray) -> Asked:
    """The same of one detector, fitted on (n, d) ``known``, with (h, d) known pictures that it has not seen."""
    rows = np.concatenate([known, held_out])
    return next(ask_together([detector], rows, [np.arange(len(known), len(rows))], X))


def count_ways(rows: FloatArray, n: int, left_out: Sequence[IndexArray]) -> tuple[FloatArray, FloatArray]:
    """(parts, N) how much reaches each row from the first n without each part, and (n,) what comes back to a start.

    Args:
        rows: (N, d) distinct, of length 1.
        n: how many of them, the first, ways start from.
        left_out: parts of those, from which none starts.
    """
    step, scale = _walk(rows)
    total, without, own = np.zeros(len(rows)), np.zeros((len(left_out), len(rows))), np.empty(n)
    for block in np.split(np.arange(n), np.arange(FROM_AT_A_TIME, n, FROM_AT_A_TIME)):
        begin = np.zeros((len(rows), len(block)))
        begin[block, np.arange(len(block))] = scale[block]
        ways = begin
        for _ in range(STEPS):
            ways = begin + step @ ways
        ways *= scale[:, None]
        total, own[block] = total + ways.sum(axis=1), ways[block, np.arange(len(block))]
        for lost, part in zip(without, left_out, strict=True):
            lost += ways[:, np.isin(block, part)].sum(axis=1)
    return total - without, own


def _walk(rows: FloatArray) -> tuple[csr_matrix, FloatArray]:
    """(N, N) one step of all ways, and (N,) by what both of their ends are scaled.

    A tie of neighbours, of either side, is exp(-a squared distance over the usual one).
    """
    near = find_nearest_others(rows, min(TIES, len(rows) - 1))
    squared = near.distances**2
    starts = np.repeat(np.arange(len(rows)), squared.shape[1])
    ties = np.exp(-squared / np.median(squared))
    graph = csr_matrix((ties.ravel(), (starts, near.neighbours.ravel())), shape=(len(rows), len(rows)))
    graph = graph.maximum(graph.T)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = 1 / np.sqrt(degrees + LEAK * np.median(degrees))
    return diags(scale) @ graph @ diags(scale), scale


def _log(reached: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.maximum(reached, LOST)))


def _standardise(scores: FloatArray, reference: FloatArray) -> FloatArray:
    return np.asarray((scores - reference.mean()) / (reference.std() or 1.0))
