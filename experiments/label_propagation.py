"""Label propagation, the rival of the mixture that the library has: `python -m experiments.text_prior`."""

from __future__ import annotations

import numpy as np

from clip_fewshot.geometry import unit_rows
from clip_fewshot.neighbors.exact import find_nearest, find_nearest_others
from clip_fewshot.types import FloatArray

NEIGHBOURS = 10
SPREAD = 0.8  # weight of the neighbours
SWEEPS = 20
STEEPNESS = 10.0  # of exp(STEEPNESS cosine) as the likeness of neighbours


def propagate(start: FloatArray, queries: FloatArray) -> FloatArray:
    """(q, c) answers that neighbours share.

    Zhou, Bousquet, Lal, Weston, Schoelkopf, "Learning with Local and Global Consistency", 2003, eq. 4, with the
    classifier's probabilities in the place of the labels: F = SPREAD S F + (1 - SPREAD) start, S the symmetric graph
    of nearest neighbours, normalised on both sides.

    Args:
        start: (q, c) probabilities. queries: (q, d) centred unit rows.
    """
    found = find_nearest_others(queries, min(NEIGHBOURS, len(queries) - 1))
    graph = np.zeros((len(queries), len(queries)))
    rows = np.arange(len(queries))[:, None]
    graph[rows, found.neighbours] = np.exp(STEEPNESS * (1 - found.distances**2 / 2))
    graph = np.maximum(graph, graph.T)
    root = np.sqrt(np.maximum(graph.sum(axis=1), 1e-12))
    answers = start
    for _ in range(SWEEPS):
        answers = SPREAD * (graph / root / root[:, None]) @ answers + (1 - SPREAD) * start
    return np.asarray(answers / answers.sum(axis=1, keepdims=True))


def extend(start: FloatArray, rows: FloatArray, answers: FloatArray, queries: FloatArray) -> FloatArray:
    """(m, c) of (m, d) rows beside the queries: the same mean once more, over the nearest queries.

    Bengio, Delalleau, Le Roux, "Label Propagation and Quadratic Criterion", 2006, section 11.3.2 on induction.
    """
    found = find_nearest(queries, rows, min(NEIGHBOURS, len(queries)))
    likeness = np.exp(STEEPNESS * (1 - found.distances**2 / 2))
    near = np.einsum("mk,mkc->mc", likeness / likeness.sum(axis=1, keepdims=True), answers[found.neighbours])
    return np.asarray(SPREAD * near + (1 - SPREAD) * start)


def classify_by_propagation(
    probabilities: FloatArray, asked: FloatArray, start: FloatArray, queries: FloatArray
) -> FloatArray:
    """(m, c) logits of (m, d) asked rows, from a classifier's probabilities of them and of (q, d) unlabelled ones."""
    unit = unit_rows(queries)
    centre = unit.mean(axis=0)
    near, rows = unit_rows(unit - centre), unit_rows(unit_rows(asked) - centre)
    return np.asarray(np.log(np.maximum(extend(probabilities, rows, propagate(start, near), near), 1e-12)))
