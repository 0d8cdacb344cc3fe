"""Accuracy by shots per class, for several methods, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.report.headline import display_name
from clip_fewshot.report.plots.style import DASHES, MARKERS, SERIES, Plot, label, method_look, render
from clip_fewshot.report.record import ShotPoint


def shots_plot(curves: Mapping[str, Sequence[ShotPoint]], title: str = "") -> Plot:
    """One line per method over a logarithmic shots axis; bars are 95 % intervals, set apart so that none hides another.

    Args:
        curves: method -> its points; methods may miss some shots.
        title: printed above the axes where several plots stand side by side.
    """

    def paint(axes: Axes) -> None:
        for i, (name, points) in enumerate(curves.items()):
            offset = (i - (len(curves) - 1) / 2) / len(curves)
            _paint_curve(axes, label(display_name(name)), points, method_look(name, i), offset)
        ticks = sorted({point.shots for points in curves.values() for point in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("shots per class")
        axes.set_ylabel("test accuracy")
        if title:
            axes.set_title(label(title, 60), fontsize=12, loc="left")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=2, columnspacing=1.2)

    return Plot(render(5.4, 4.7, paint), _describe(curves))


def _paint_curve(axes: Axes, name: str, points: Sequence[ShotPoint], style: int, offset: float) -> None:
    shots, mean, low, high = np.array(sorted(points), dtype=float).T
    bars = np.stack([mean - low, high - mean])
    look: Any = {"color": SERIES[style], "marker": MARKERS[style], "linestyle": DASHES[style]}
    axes.errorbar(shots * 2 ** (0.2 * offset), mean, yerr=bars, ms=5, capsize=2.5, elinewidth=1, label=name, **look)


def _describe(curves: Mapping[str, Sequence[ShotPoint]]) -> str:
    ends = [(display_name(name), sorted(points)) for name, points in curves.items()]
    said = "; ".join(
        f"{label(name)} {p[0].mean:.3f} at {p[0].shots} to {p[-1].mean:.3f} at {p[-1].shots}" for name, p in ends
    )
    return f"Test accuracy by shots per class with 95 % intervals: {said}."
