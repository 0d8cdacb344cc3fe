"""Which test pictures the report shows: of each kind in turn, those first that teach most."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

import numpy as np

from clip_fewshot.data.thumbnail import shrink_picture
from clip_fewshot.protocol.final_test import OpenWorldTest
from clip_fewshot.report.pictures import PREVIEW_SIDE
from clip_fewshot.report.record import PredictionExample
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray, LabelSpace

EXAMPLES_SHOWN = 120  # each is opened again and is some 13 kB of the page


def draw_examples(
    met: OpenWorldTest, space: LabelSpace, tables: Sequence[FloatArray], top: int = 3
) -> tuple[PredictionExample, ...]:
    """Instructive test pictures, what the saved model says of each, and what those of the other support sets say.

    Args:
        tables: per fresh support set, (n, c) probabilities for the test pictures of known classes.
    """
    votes = _count_votes(met, space, tables)
    return tuple(_example(met, i, space, votes[i], top) for i in _rank(met, space, votes))


def _count_votes(met: OpenWorldTest, space: LabelSpace, tables: Sequence[FloatArray]) -> LabelArray:
    """(m, c) by how many fresh support sets each class is answered; zeros for pictures of unseen classes."""
    votes = np.zeros((len(met.images), len(space)), dtype=np.int64)
    for table in tables:
        votes[np.arange(len(table)), table.argmax(axis=1)] += 1
    return votes[met.order]


def _rank(met: OpenWorldTest, space: LabelSpace, votes: LabelArray) -> list[int]:
    """Rows: one of each kind, then another of each, until there are enough."""
    places = {name: i for i, name in enumerate(space.names)}
    truth = np.array([places.get(name, -1) for name in met.names])
    known, right = truth >= 0, truth == met.probabilities.argmax(axis=1)
    sure = met.probabilities.max(axis=1)
    normal = sure if met.p_values is None else met.p_values
    kinds = (
        _order(known & ~right, -sure),  # mistakes, the surest first
        _order(~known & ~met.unknown, -normal),  # unknown ones that pass for known
        _order(known & met.unknown, normal),  # false alarms
        _one_of_each_cell(truth, votes),  # so that no cell of the confusion matrix has nothing to show
        _order(right, sure),  # right ones, the least sure first
        _order(~known & met.unknown, normal),
    )
    turns = chain.from_iterable(zip_longest(*kinds))
    return list(dict.fromkeys(row for row in turns if row is not None))[:EXAMPLES_SHOWN]


def _order(kept: BoolArray, by: FloatArray) -> list[int]:
    rows = np.flatnonzero(kept)
    return [int(i) for i in rows[np.argsort(by[rows], kind="stable")]]


def _one_of_each_cell(truth: IndexArray, votes: LabelArray) -> list[int]:
    """Of each (true, answered) the picture that most support sets answer so; mistakes first."""
    rows, said = np.nonzero(votes)
    order = np.lexsort((-votes[rows, said], truth[rows] == said))
    cells: dict[tuple[int, int], int] = {}
    for k in order:
        cells.setdefault((int(truth[rows[k]]), int(said[k])), int(rows[k]))
    return list(cells.values())


def _example(met: OpenWorldTest, i: int, space: LabelSpace, votes: LabelArray, top: int) -> PredictionExample:
    best = np.argsort(-met.probabilities[i], kind="stable")[:top]
    voted = np.argsort(-votes, kind="stable")[: np.count_nonzero(votes)]
    return PredictionExample(
        picture=shrink_picture(met.images.open(i), PREVIEW_SIDE),
        true_name=met.names[i],
        top=tuple((space.names[int(c)], float(met.probabilities[i, c])) for c in best),
        unknown=None if met.p_values is None else bool(met.unknown[i]),
        p_value=None if met.p_values is None else float(met.p_values[i]),
        possible=None if met.possible is None else tuple(space.names[int(c)] for c in np.flatnonzero(met.possible[i])),
        file=met.images.names[i],
        votes=tuple((space.names[int(c)], int(votes[c])) for c in voted),
    )
