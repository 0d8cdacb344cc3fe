"""Groups of unknown pictures, as a person is shown them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clip_fewshot.data.cards import render_cards
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.discovery import DiscovererPart, Discovery
from clip_fewshot.discovery.undecided import Regrouped, discover_undecided
from clip_fewshot.geometry import unit_rows
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.runtime.result_rows import ResultRows
from clip_fewshot.types import FloatArray, IndexArray, LabelArray, LabelSpace

if TYPE_CHECKING:
    import pandas

_TYPICAL = 8  # pictures of a group that a person is shown


@dataclass(frozen=True, eq=False)
class Group:
    """Unknown pictures that are similar: a candidate class.

    Attributes:
        number: place among the groups, 0 the largest.
        pictures: (m,) of them. features: (m, d) of the untuned tower. p_values: (m,) as answered.
        exemplars: (m,) rows of ``pictures``, the most typical first: the nearest to the group's centre by angle.
        nearest: the known class whose mean is the nearest to that of the group, and the cosine between the two; None
            without known classes.
        answered: the known class that each picture was given before it joined the group; None for those that were
            called unknown. Answers stay as they were given, until the group is named.
    """

    number: int
    pictures: ImageDataset
    features: FloatArray
    p_values: FloatArray
    exemplars: IndexArray
    nearest: tuple[str, float] | None
    answered: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def __repr__(self) -> str:
        near = "" if self.nearest is None else f", nearest to {self.nearest[0]!r} (cosine {self.nearest[1]:.3f})"
        return f"Group({self.number}: {number(len(self), 'picture')}{near})"

    def _repr_html_(self) -> str:
        return Groups([self])._repr_html_()


class Groups(tuple[Group, ...]):
    """The groups, the largest first; ``to_frame()`` makes a DataFrame of them, and a notebook shows their pictures."""

    def to_frame(self) -> pandas.DataFrame:
        """A row per group: its number, how many pictures, the nearest known class and the cosine to it."""
        rows = [(group.number, len(group), *(group.nearest or (None, None))) for group in self]
        return ResultRows(map(_GroupRow._make, rows)).to_frame()

    def _repr_html_(self) -> str:
        """The most typical pictures of each group."""
        shown = [(group, dict.fromkeys(group.exemplars[:_TYPICAL].tolist(), "")) for group in self]
        return "".join(render_cards(repr(group), group.pictures, rows, len(group) - len(rows)) for group, rows in shown)


class _GroupRow(NamedTuple):
    group: int
    pictures: int
    nearest: str | None
    cosine: float | None


class Grouped(NamedTuple):
    """The ``pictures`` that are unknown or joined a group, the groups among them as numbers and as pictures."""

    pictures: UnknownPictures
    found: Discovery
    groups: Groups


def discover_groups(
    judged: UnknownPictures,
    known: tuple[FloatArray, LabelArray],
    names: LabelSpace,
    method: str | DiscovererPart | None,
    seed: int,
) -> Grouped:
    """The groups among pictures, see :func:`discover_undecided`.

    Args:
        known: (n, d) features of known pictures and their (n,) labels in ``names``.
    """
    regrouped = discover_undecided(judged.features, judged.unknown, judged.p_values, known, method=method, seed=seed)
    return build_grouped(judged, regrouped, known, names)


def build_grouped(
    judged: UnknownPictures, regrouped: Regrouped, known: tuple[FloatArray, LabelArray], names: LabelSpace
) -> Grouped:
    """What was found among ``judged``, as pictures."""
    pictures = judged.subset(regrouped.rows)
    return Grouped(pictures, regrouped.found, build_groups(regrouped.found, pictures, known, names))


def build_groups(
    found: Discovery, judged: UnknownPictures, known: tuple[FloatArray, LabelArray], names: LabelSpace
) -> Groups:
    """The groups of ``found``, whose rows are those of ``judged``; what is in none is left out."""
    means = _class_means(*known)
    groups = []
    for n in range(found.n_clusters):
        part = judged.subset(np.flatnonzero(found.labels == n))
        own = unit_rows(part.features)
        centre = unit_rows(own.mean(axis=0, keepdims=True))[0]
        nearest = None
        if len(means):
            cosines = means @ centre
            nearest = (names.names[int(cosines.argmax())], float(cosines.max()))
        typical = np.argsort(-(own @ centre), kind="stable")
        groups.append(Group(n, part.pictures, part.features, part.p_values, typical, nearest, part.answered))
    return Groups(groups)


def _class_means(features: FloatArray, labels: LabelArray) -> FloatArray:
    unit = unit_rows(features)
    count = int(labels.max()) + 1 if len(labels) else 0
    return unit_rows(np.array([unit[labels == c].mean(axis=0) for c in range(count)]))
