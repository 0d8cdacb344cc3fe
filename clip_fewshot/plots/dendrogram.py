"""The merge tree of the flagged images, coloured by group; outliers are grey."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL.Image import Image

from clip_fewshot.data.names import number
from clip_fewshot.plots.style import INK, OUTLIER, SERIES, Plot, render
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

_MERGES_SHOWN = 300  # the highest; what is below them collapses to a point
_MIXED = -2  # of nodes that join a group with anything else; -1, of outliers, is no group
_COLOURS = SERIES[:-1]  # without its grey, which is the outliers'
_SIDE = 40  # points, of a thumbnail
_PICTURE_SPACE = 0.08  # share of the width that a thumbnail takes
_NUMBER_SPACE, _WORD_SPACE = 0.02, 0.05  # share of the width that a bar needs before its name is written


def order_leaves(linkage: FloatArray) -> IndexArray:
    """Left-to-right order of the m leaves of a (m - 1, 4) linkage matrix. Iterative: chains can be m deep."""
    m = len(linkage) + 1
    order, stack = [], [2 * m - 2]
    while stack:
        node = stack.pop()
        if node < m:
            order.append(node)
        else:
            left, right = linkage[node - m, :2].astype(int)
            stack += [int(right), int(left)]
    return np.array(order, dtype=np.int64)


def lay_out_tree(linkage: FloatArray, labels: LabelArray) -> tuple[FloatArray, FloatArray, LabelArray]:
    """(2m - 1,) horizontal place, height and group of each node; -1 over outliers alone, -2 over a mixture."""
    m = len(labels)
    x, height, group = np.zeros(2 * m - 1), np.zeros(2 * m - 1), np.full(2 * m - 1, _MIXED, dtype=np.int64)
    x[order_leaves(linkage)] = np.arange(m)
    group[:m] = labels
    for i, (left, right, distance, _) in enumerate(linkage):
        a, b = int(left), int(right)
        x[m + i], height[m + i] = (x[a] + x[b]) / 2, distance
        group[m + i] = group[a] if group[a] == group[b] else _MIXED
    return x, height, group


def find_cut_height(linkage: FloatArray, labels: LabelArray) -> float | None:
    """The height at which to cut so that every group is one part of the tree; outliers may be any other parts.

    Half way between the highest merge inside a group and the lowest that joins a group with anything else. The
    number of groups alone does not say it: outliers are parts too, as many as they like.

    Args:
        linkage: (m - 1, 4) in SciPy's layout, heights never falling from a merge to the one above it.
        labels: (m,) group of each leaf, -1 for none.

    Returns:
        None where no height yields the groups, and where there is nothing to cut: no group, or one that is the tree.
    """
    group = lay_out_tree(linkage, labels)[2][len(labels) :]
    inside, across = linkage[group >= 0, 2], linkage[group == _MIXED, 2]
    grouped = labels[labels >= 0]
    whole = len(inside) == len(grouped) - len(np.unique(grouped))  # fewer where a group hangs in several places
    if not whole or not len(across):
        return None
    below, above = float(inside.max(initial=0.0)), float(across.min())
    return (below + above) / 2 if below < above else None


def dendrogram_plot(linkage: FloatArray, labels: LabelArray, pictures: Mapping[int, Image] | None = None) -> Plot:
    """Ward's tree (or any other) over the flagged images, one colour per group, outliers grey.

    The cut is a dashed line, drawn only where there is one, see :func:`find_cut_height`.

    Args:
        linkage: (m - 1, 4) in SciPy's layout, m of at least 2.
        labels: (m,) group of each leaf, -1 for none.
        pictures: group -> its exemplar, shown below the group in a frame of its colour; as many as there is room for,
            the largest groups first.
    """
    x, height, group = lay_out_tree(linkage, labels)
    m, cut = len(labels), find_cut_height(linkage, labels)
    numbers = np.unique(labels[labels >= 0])
    shown = np.argsort(-linkage[:, 2], kind="stable")[:_MERGES_SHOWN]

    def paint(axes: Axes) -> None:
        lines = [_bracket(linkage[i], x, height, m + int(i)) for i in shown]
        colours = [_colour(int(group[m + i]), numbers) for i in shown]
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.1))
        _name_groups(axes, labels[order_leaves(linkage)], numbers)
        if cut is not None:
            _draw_cut(axes, cut)
        axes.set(xlim=(-0.5, m - 0.5), ylim=(0, float(height.max()) * 1.05 or 1.0), ylabel="merge height")
        axes.set_xticks([])
        if pictures:
            _show(axes, pictures, labels[order_leaves(linkage)], numbers)
        axes.set_xlabel("flagged images, by group", labelpad=28 + (_SIDE + 10 if pictures else 0))
        axes.grid(visible=False, axis="x")

    return Plot(
        render(9.0, 4.7 if pictures else 3.8, paint),
        _describe(labels, len(numbers), float(height.max()), cut, bool(pictures)),
    )


def _describe(labels: LabelArray, n_groups: int, top: float, cut: float | None, shown: bool) -> str:
    outliers = int((labels < 0).sum())
    alone = f", {outliers:,} of them in no group" if outliers else ""
    line = "" if cut is None else f", the cut at {cut:.3g}"
    tree = f"Merge tree of {number(len(labels), 'flagged image')} in {number(n_groups, 'group')}{alone}"
    below = " Below the groups stand their most central pictures." if shown else ""
    return f"{tree}; the last merge is at height {top:.3g}{line}.{below}"


def _bracket(merge: FloatArray, x: FloatArray, height: FloatArray, node: int) -> list[tuple[float, float]]:
    a, b = int(merge[0]), int(merge[1])
    top = float(height[node])
    return [(float(x[a]), float(height[a])), (float(x[a]), top), (float(x[b]), top), (float(x[b]), float(height[b]))]


def _colour(group: int, numbers: LabelArray) -> str:
    if group < 0:
        return INK if group == _MIXED else OUTLIER
    return _COLOURS[int(np.searchsorted(numbers, group)) % len(_COLOURS)]


def _draw_cut(axes: Axes, cut: float) -> None:
    axes.axhline(cut, color=INK, lw=0.9, ls="--")
    axes.annotate(" cut", (1, cut), xycoords=("axes fraction", "data"), va="center", fontsize=10, annotation_clip=False)


def _name_groups(axes: Axes, labels: LabelArray, numbers: LabelArray) -> None:
    """A bar under each run of neighbouring leaves of one group; the widest run of each is named, where it has room."""
    runs = _runs(labels)
    transform = axes.get_xaxis_transform()
    for label, (low, high) in runs:
        ends, colour = [low - 0.4, high + 0.4], _colour(label, numbers)
        axes.plot(ends, [-0.025, -0.025], color=colour, lw=4, transform=transform, clip_on=False, solid_capstyle="butt")
    for label in {label for label, _ in runs}:
        low, high = max((span for of, span in runs if of == label), key=lambda span: span[1] - span[0])
        name, space = ("no group", _WORD_SPACE) if label < 0 else (str(label), _NUMBER_SPACE)
        if high - low + 1 > space * len(labels):
            middle = (low + high) / 2
            axes.text(middle, -0.06, name, ha="center", va="top", fontsize=10, color=INK, transform=transform)


def _show(axes: Axes, pictures: Mapping[int, Image], labels: LabelArray, numbers: LabelArray) -> None:
    """A thumbnail under the widest run of each group; one that would cover another is left out."""
    runs = [(high - low, (low + high) / 2, label) for label, (low, high) in _runs(labels) if label in pictures]
    taken: dict[int, float] = {}
    for _, middle, label in sorted(runs, key=lambda run: -run[0]):
        place = min(max((middle + 0.5) / len(labels), _PICTURE_SPACE / 2), 1 - _PICTURE_SPACE / 2)
        if label in taken or any(abs(place - other) < _PICTURE_SPACE for other in taken.values()):
            continue
        taken[label] = place
        small = pictures[label].convert("RGB")
        small.thumbnail((2 * _SIDE, 2 * _SIDE))
        box = OffsetImage(np.asarray(small), zoom=_SIDE / max(small.size), interpolation="none")
        frame = {"edgecolor": _colour(label, numbers), "linewidth": 2, "boxstyle": "square,pad=0.06"}
        at = AnnotationBbox(
            box,
            (place, 0),
            xybox=(0, -26),
            xycoords="axes fraction",
            boxcoords="offset points",
            box_alignment=(0.5, 1),
            bboxprops=frame,
        )
        axes.add_artist(at)


def _runs(labels: LabelArray) -> list[tuple[int, tuple[int, int]]]:
    """(label, (first, last place)) of each run of equal labels, left to right."""
    runs = [(int(label), [i for i, _ in run]) for label, run in groupby(enumerate(labels), key=lambda at: at[1])]
    return [(label, (places[0], places[-1])) for label, places in runs]
