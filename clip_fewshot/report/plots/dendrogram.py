"""The merge tree of the flagged images, coloured by group."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from clip_fewshot.report.plots.style import INK, SERIES, SOFT, Plot, render
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

_MERGES_SHOWN = 300  # the highest; what is below them collapses to a point


def leaf_order(linkage: FloatArray) -> IndexArray:
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


def tree_layout(linkage: FloatArray, labels: LabelArray) -> tuple[FloatArray, FloatArray, LabelArray]:
    """(2m - 1,) horizontal place, height and cluster of each node; cluster -1 where a node joins several."""
    m = len(labels)
    x, height, group = np.zeros(2 * m - 1), np.zeros(2 * m - 1), np.full(2 * m - 1, -1, dtype=np.int64)
    x[leaf_order(linkage)] = np.arange(m)
    group[:m] = labels
    for i, (left, right, distance, _) in enumerate(linkage):
        a, b = int(left), int(right)
        x[m + i], height[m + i] = (x[a] + x[b]) / 2, distance
        group[m + i] = group[a] if group[a] == group[b] else -1
    return x, height, group


def dendrogram_plot(linkage: FloatArray, labels: LabelArray) -> Plot:
    """Ward's tree (or any other) over the flagged images, one colour per group, the cut as a dashed line.

    Args:
        linkage: (m - 1, 4) in SciPy's layout, m of at least 2.
        labels: (m,) cluster of each leaf.
    """
    x, height, group = tree_layout(linkage, labels)
    m, numbers = len(labels), np.unique(labels)
    shown = np.argsort(-linkage[:, 2], kind="stable")[:_MERGES_SHOWN]

    def paint(axes: Axes) -> None:
        lines = [_bracket(linkage[i], x, height, m + int(i)) for i in shown]
        colours = [_colour(int(group[m + i]), numbers) for i in shown]
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.1))
        _name_groups(axes, x[:m], labels, numbers)
        cut = _cut(linkage, len(numbers))
        if cut is not None:
            axes.axhline(cut, color=INK, lw=0.9, ls="--")
            axes.annotate(
                " cut", (1, cut), xycoords=("axes fraction", "data"), va="center", fontsize=10, annotation_clip=False
            )
        axes.set(xlim=(-0.5, m - 0.5), ylim=(0, float(height.max()) * 1.05 or 1.0), ylabel="merge height")
        axes.set_xticks([])
        axes.set_xlabel("flagged images, by group", labelpad=24)
        axes.grid(visible=False, axis="x")

    groups = "group" if len(numbers) == 1 else "groups"
    alt = (
        f"Merge tree of {m} flagged images in {len(numbers)} {groups}; the last merge is at height {height.max():.3g}."
    )
    return Plot(render(9.0, 3.8, paint), alt)


def _bracket(merge: FloatArray, x: FloatArray, height: FloatArray, node: int) -> list[tuple[float, float]]:
    a, b = int(merge[0]), int(merge[1])
    top = float(height[node])
    return [(float(x[a]), float(height[a])), (float(x[a]), top), (float(x[b]), top), (float(x[b]), float(height[b]))]


def _colour(cluster: int, numbers: LabelArray) -> str:
    return SOFT if cluster < 0 else SERIES[int(np.searchsorted(numbers, cluster)) % len(SERIES)]


def _cut(linkage: FloatArray, n_clusters: int) -> float | None:
    """Half way between the last merge inside a group and the first between groups; None for a single group."""
    if n_clusters < 2:
        return None
    heights = np.sort(linkage[:, 2])
    above = float(heights[-(n_clusters - 1)])
    below = float(heights[-n_clusters]) if n_clusters <= len(heights) else 0.0
    return (above + below) / 2


def _name_groups(axes: Axes, x: FloatArray, labels: LabelArray, numbers: LabelArray) -> None:
    """A bar and a number under the leaves of each group; numbers are left out where the bar is too narrow."""
    for number in numbers:
        places, colour = x[labels == number], _colour(int(number), numbers)
        low, high = float(places.min()) - 0.4, float(places.max()) + 0.4
        transform = axes.get_xaxis_transform()
        axes.plot(
            [low, high], [-0.025, -0.025], color=colour, lw=4, transform=transform, clip_on=False, solid_capstyle="butt"
        )
        if high - low > 0.02 * len(labels):
            axes.text(
                (low + high) / 2, -0.06, f"{number}", ha="center", va="top", fontsize=10, color=INK, transform=transform
            )
