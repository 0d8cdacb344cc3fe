"""Accuracy by shots per class, for several methods, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.plots.methods import METHODS, display_name
from clip_fewshot.plots.style import DASHES, MARKERS, SERIES, Plot, format_label, render
from clip_fewshot.plots.views import ShotPoint


def shots_plot(curves: Mapping[str, Sequence[ShotPoint]], title: str = "") -> Plot:
    """One line per method over a logarithmic shots axis; bars are 95 % intervals, shifted so that none hides another.

    Args:
        curves: method -> its points; methods may miss some shots.
        title: printed above the axes where several plots stand side by side.
    """

    def paint(axes: Axes) -> None:
        _paint_panel(axes, curves, title, choose_looks(curves))
        axes.set_ylabel("test accuracy")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=2, columnspacing=1.2)

    return Plot(render(5.4, 4.7, paint), _describe(curves))


def shots_panels(panels: Mapping[str, Mapping[str, Sequence[ShotPoint]]]) -> Plot:
    """:func:`shots_plot` for several data sets side by side, with one accuracy axis and one legend.

    Args:
        panels: title -> curves; a method looks the same in all of them.
    """
    methods = choose_looks(dict.fromkeys(name for curves in panels.values() for name in curves))

    def painter(place: int, title: str, curves: Mapping[str, Sequence[ShotPoint]]) -> Callable[[Axes], None]:
        def paint(axes: Axes) -> None:
            _paint_panel(axes, curves, title, methods)
            if place == 0:
                axes.set_ylabel("test accuracy")
            if place == len(panels) - 1:
                _shared_legend(axes, len(methods))

        return paint

    drawing = render(4.6 * len(panels), 4.7, *(painter(i, *panel) for i, panel in enumerate(panels.items())))
    return Plot(
        drawing, " ".join(f"{format_label(title, 60)}: {_describe(curves)}" for title, curves in panels.items())
    )


def choose_looks(names: Iterable[str]) -> dict[str, int]:
    """A number for each method: a known one has the same in every figure, the others take what is left."""
    known = {name: METHODS.index(name) for name in names if name in METHODS}
    free = (place for place in count() if place not in known.values())
    return {name: known[name] if name in known else next(free) for name in names}


def _paint_panel(axes: Axes, curves: Mapping[str, Sequence[ShotPoint]], title: str, looks: Mapping[str, int]) -> None:
    for i, (name, points) in enumerate(curves.items()):
        offset = (i - (len(curves) - 1) / 2) / len(curves)
        _paint_curve(axes, format_label(display_name(name)), points, looks[name], offset)
    ticks = sorted({point.shots for points in curves.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("shots per class")
    if title:
        axes.set_title(format_label(title, 60), fontsize=12, loc="left")


def _shared_legend(axes: Axes, n_methods: int) -> None:
    """Below all panels, the methods of every one of them once."""
    figure = axes.get_figure()
    if figure is None:
        return
    pairs = [pair for panel in figure.axes for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    handles = {name: handle for handle, name in pairs}
    columns = -(-n_methods // 2)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, columnspacing=1.4)


def _paint_curve(axes: Axes, name: str, points: Sequence[ShotPoint], look: int, offset: float) -> None:
    shots, mean, low, high = np.array(sorted(points), dtype=float).T
    bars = np.stack([mean - low, high - mean])
    again, i = divmod(look, len(SERIES))  # where colours run out, they come back with other markers and dashes
    style: Any = {"color": SERIES[i], "marker": MARKERS[(i + 3 * again) % len(MARKERS)]}
    style["linestyle"] = DASHES[(i + again) % len(DASHES)]
    axes.errorbar(shots * 2 ** (0.2 * offset), mean, yerr=bars, ms=5, capsize=2.5, elinewidth=1, label=name, **style)


def _describe(curves: Mapping[str, Sequence[ShotPoint]]) -> str:
    ends = [(display_name(name), sorted(points)) for name, points in curves.items()]
    said = "; ".join(
        f"{format_label(name)} {p[0].mean:.3f} at {p[0].shots} to {p[-1].mean:.3f} at {p[-1].shots}" for name, p in ends
    )
    return f"Test accuracy by shots per class with 95 % intervals: {said}."
