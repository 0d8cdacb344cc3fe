"""Groups of unknown pictures, as a person is shown them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.discovery import Discovery
from clip_fewshot.geometry import unit_rows
from clip_fewshot.types import FloatArray, IndexArray, LabelArray, LabelSpace


@dataclass(frozen=True, eq=False)
class Group:
    """Unknown pictures that are similar: a candidate class.

    Attributes:
        number: place among the groups, 0 the largest.
        pictures: (m,) of them. features: (m, d) of the untuned tower. p_values: (m,) as answered.
        exemplars: (m,) rows of ``pictures``, the most typical first: the nearest to the group's centre by angle.
        nearest: the known class whose mean is the nearest to that of the group, and the cosine between the two; None
            without known classes.
    """

    number: int
    pictures: ImageDataset
    features: FloatArray
    p_values: FloatArray
    exemplars: IndexArray
    nearest: tuple[str, float] | None

    def __len__(self) -> int:
        return len(self.pictures)


def build_groups(
    found: Discovery,
    pictures: ImageDataset,
    features: FloatArray,
    p_values: FloatArray,
    known: tuple[FloatArray, LabelArray],
    names: LabelSpace,
) -> tuple[Group, ...]:
    """The groups of ``found``, whose rows are those of ``pictures``; what is in none is left out.

    Args:
        known: (n, d) features of known pictures and their (n,) labels in ``names``.
    """
    means = _class_means(*known)
    groups = []
    for number in range(found.n_clusters):
        rows = np.flatnonzero(found.labels == number)
        own = unit_rows(features[rows])
        centre = unit_rows(own.mean(axis=0, keepdims=True))[0]
        nearest = None
        if len(means):
            cosines = means @ centre
            nearest = (names.names[int(cosines.argmax())], float(cosines.max()))
        typical = np.argsort(-(own @ centre), kind="stable")
        groups.append(Group(number, pictures.subset(rows), features[rows], p_values[rows], typical, nearest))
    return tuple(groups)


def _class_means(features: FloatArray, labels: LabelArray) -> FloatArray:
    unit = unit_rows(features)
    count = int(labels.max()) + 1 if len(labels) else 0
    return unit_rows(np.array([unit[labels == c].mean(axis=0) for c in range(count)]))
