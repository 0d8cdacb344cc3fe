"""The search: validation score of each trial, by approach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from clip_fewshot.data.names import number
from clip_fewshot.plots.methods import display_name, order_methods
from clip_fewshot.plots.style import INK, MARKERS, SERIES, SOFT, Plot, choose_style, format_label, render
from clip_fewshot.plots.views import TrialRow


def history_plot(rows: Sequence[TrialRow]) -> Plot:
    """Validation score by trial; pruned trials hollow, failed ones on the floor, the best so far as a line."""

    def paint(axes: Axes) -> None:
        for i, approach in enumerate(order_methods({row["approach"] for row in rows})):
            _paint_approach(axes, [row for row in rows if row["approach"] == approach], choose_style(approach, i))
        _paint_best(axes, rows)
        failed = [row["number"] for row in rows if row["state"] == "failed"]
        if failed:
            floor = [0.02] * len(failed)
            axes.scatter(
                failed, floor, marker="x", color=INK, s=26, label="failed", transform=axes.get_xaxis_transform()
            )
        if any(row["state"] == "pruned" for row in rows):
            axes.scatter([], [], marker="o", facecolors="white", edgecolors=SOFT, s=26, label="hollow: pruned")
        axes.set_xlabel("trial")
        axes.set_ylabel("validation score, exp(-log loss)")
        axes.margins(y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=2, columnspacing=1.2)

    return Plot(render(5.4, 4.7, paint), _describe(rows))


def _paint_approach(axes: Axes, rows: Sequence[TrialRow], look: int) -> None:
    colour, marker = SERIES[look], MARKERS[look]
    for state, face in (("finished", colour), ("pruned", "white")):
        points = [(row["number"], row["value"]) for row in rows if row["state"] == state and row["value"] is not None]
        if points:
            x, y = np.array(points).T
            name = format_label(display_name(rows[0]["approach"])) if state == "finished" else None
            axes.scatter(
                x, y, s=26, marker=marker, facecolors=face, edgecolors=colour, linewidths=1.1, label=name, zorder=3
            )


def _finished(rows: Sequence[TrialRow]) -> list[tuple[int, float]]:
    done = [(row["number"], row["value"]) for row in rows if row["state"] == "finished"]
    return sorted((number, value) for number, value in done if value is not None)


def _paint_best(axes: Axes, rows: Sequence[TrialRow]) -> None:
    done = _finished(rows)
    if done:
        numbers, values = np.array(done).T
        axes.step(numbers, np.maximum.accumulate(values), where="post", color=SOFT, linewidth=1.1, label="best so far")


def _describe(rows: Sequence[TrialRow]) -> str:
    done = _finished(rows)
    if not done:
        return f"Search history of {number(len(rows), 'trial')}; none finished."
    best, value = max(done, key=lambda point: (point[1], -point[0]))
    winner = next(row["approach"] for row in rows if row["number"] == best)
    return (
        f"Validation score of {number(len(rows), 'trial')}, coloured by approach; {len(done)} finished. "
        f"The best is trial {best} ({format_label(display_name(winner))}) with {value:.3f}."
    )
