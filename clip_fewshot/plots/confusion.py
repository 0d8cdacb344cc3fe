"""The confusion matrix, shaded by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from clip_fewshot.data.names import number
from clip_fewshot.plots.style import INK, Plot, format_label, render
from clip_fewshot.plots.views import list_mistakes

_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#a9cde6", "#0067a5", "#00344f"])
_NUMBERS_UP_TO, _NAMES_UP_TO, _CELLS_UP_TO = 14, 50, 30
_BLOCKS_UP_TO = 400  # a side: more than its dots; 5,000 x 5,000 cells take 20 s to draw and no diagonal is seen


def confusion_plot(counts: NDArray[np.int64], names: Sequence[str]) -> Plot:
    """Rows are true classes, columns predicted ones; the shade is the share of the row, the number the count.

    Of more than 400 classes neighbours share a square.

    Args:
        counts: (c, c) whole numbers.
        names: the c class names.
    """
    c = len(names)
    starts = np.arange(0, c, -(-c // _BLOCKS_UP_TO))
    blocks = np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)
    shares = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)

    def paint(axes: Axes) -> None:
        edges = np.append(starts, c) - 0.5
        line: Any = {"edgecolors": "#eef1f4", "linewidth": 0.5} if c <= _CELLS_UP_TO else {}
        axes.pcolormesh(edges, edges, shares, cmap=_SHADES, vmin=0, vmax=1, rasterized=c > _CELLS_UP_TO, **line)
        if c <= _NUMBERS_UP_TO:
            _write_counts(axes, counts, shares)
        _name_axes(axes, names)
        axes.set(aspect="equal", xlabel="predicted", ylabel="true")
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)

    side = float(np.clip(3.2 + 0.12 * c, 3.6, 5.0)) if c <= 20 else float(np.clip(0.25 * c, 6.0, 8.4))
    return Plot(render(side + 0.5, side, paint), _describe(counts, names))


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (i, j), n in np.ndenumerate(counts):
        if n:
            colour = "white" if shares[i, j] > 0.5 else INK
            axes.text(j, i, f"{n}", ha="center", va="center", fontsize=9, color=colour)


def _name_axes(axes: Axes, names: Sequence[str]) -> None:
    if len(names) > _NAMES_UP_TO:
        return  # matplotlib's own numbering; the table below the figure has the names
    shown = [format_label(name, 16) for name in names]
    size = 10 if len(names) <= _NUMBERS_UP_TO else 8 if len(names) <= 30 else 6.5
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(len(names)), shown, fontsize=size)


def _describe(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    total, right = int(counts.sum()), int(np.trace(counts))
    head = f"Confusion matrix of {number(len(names), 'class', 'classes')}: right in {right:,} of {total:,}."
    said = "; ".join(
        f"{format_label(names[i])} taken for {format_label(names[j])} {number(n, 'time')}"
        for i, j, n in list_mistakes(counts, 3)
    )
    return f"{head} Most frequent errors: {said}." if said else head
