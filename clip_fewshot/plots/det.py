"""Novelty: the detection error trade-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.evaluation.metrics import DetCurve
from clip_fewshot.plots.style import DASHES, INK, KNOWN, NOVEL, SERIES, SOFT, Plot, format_label, render
from clip_fewshot.plots.views import NoveltyView
from clip_fewshot.types import FloatArray

_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
_FIRST, _LAST = 0.01, 0.5  # false-alarm rates between which detectors are compared
_EDGE = 0.0005  # rates nearer to 0 or 1 than this are drawn at this place: the axes have no end


def normal_deviates(rates: FloatArray) -> FloatArray:
    """Rates in [0, 1] -> their normal deviates, clipped to the ends of the axes."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(min(max(float(rate), _EDGE), 1 - _EDGE)) for rate in np.atleast_1d(rates)])


def equal_error_rate(view: NoveltyView) -> float:
    """The rate at which the drawn curve crosses its diagonal, to the resolution of its points."""
    nearest = int(np.abs(view.false_alarm - view.miss).argmin())
    return float(view.false_alarm[nearest] + view.miss[nearest]) / 2


def find_operating_point(view: NoveltyView) -> tuple[float, float] | None:
    """(false-alarm rate, miss rate) at the threshold; None without one."""
    if view.threshold is None:
        return None
    return float((view.known_scores < view.threshold).mean()), float((view.novel_scores >= view.threshold).mean())


def det_plot(view: NoveltyView) -> Plot:
    """The DET curve on normal-deviate axes: two normal score distributions give a straight line.

    Martin, Doddington, Kamm, Ordowski, Przybocki: "The DET curve in assessment of detection task performance", 1997.
    Both marks are computed from the view and not taken from results.json, whose rates are means over support sets and
    lie on no single curve.
    """
    eer, operating = equal_error_rate(view), find_operating_point(view)

    def paint(axes: Axes) -> None:
        ends = normal_deviates(np.array([_EDGE, 1 - _EDGE]))
        axes.plot(ends, ends, color=SOFT, lw=0.8, ls=":")
        axes.plot(normal_deviates(view.false_alarm), normal_deviates(view.miss), color=KNOWN)
        place = normal_deviates(np.array([eer]))
        axes.plot(place, place, "o", color=INK, ms=7, label=f"equal error rate {eer:.3f}")
        if operating is not None:
            x, y = normal_deviates(np.array(operating))
            axes.plot([x], [y], "D", color=NOVEL, ms=7, label=_told(operating))
        _scale_axes(axes, _furthest(eer, operating))
        axes.set_xlabel("false alarms: known images flagged")
        axes.set_ylabel("misses: novel images not flagged")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22))

    alt = f"Detection error trade-off curve on normal-deviate axes; equal error rate {eer:.3f}"
    return Plot(render(5.2, 5.2, paint), f"{alt}; {_told(operating)}." if operating else f"{alt}.")


def det_curves(curves: Mapping[str, Sequence[DetCurve]]) -> Plot:
    """A DET curve per detector: the mean miss rate over its support sets at each false-alarm rate.

    That is the vertical average of Fawcett, "An introduction to ROC analysis", 2006, section 8: thresholds on different
    support sets are not comparable, false-alarm rates are.

    Args:
        curves: detector -> its curve on each support set; the first is drawn stronger, as what others are held against.
    """
    low, high = normal_deviates(np.array([_FIRST, _LAST]))
    grid = np.linspace(low, high, 200)
    normal = NormalDist()
    rates = np.array([normal.cdf(x) for x in grid])
    misses = {name: _mean_miss(of, rates) for name, of in curves.items()}

    def paint(axes: Axes) -> None:
        for i, miss in enumerate(misses.values()):
            axes.plot(grid, normal_deviates(miss), **_look(i))
        _name_starts(axes, {name: float(normal_deviates(miss)[0]) for name, miss in misses.items()}, float(low))
        _scale_axes(axes, _furthest(max(float(miss[0]) for miss in misses.values()), None))
        axes.set(xlim=(low, high), aspect="auto")
        axes.yaxis.tick_right()  # the left side is the names'
        axes.yaxis.set_label_position("right")
        axes.spines["left"].set_visible(False)
        axes.spines["right"].set_visible(True)
        axes.set_xlabel("false alarms: known images flagged")
        axes.set_ylabel("misses: novel images not flagged")

    said = ", ".join(f"{format_label(name)} {_mean_miss(of, np.array([0.05]))[0]:.3f}" for name, of in curves.items())
    return Plot(render(7.4, 5.6, paint), f"Detection error trade-off; misses at 5 % false alarms: {said}.")


def _name_starts(axes: Axes, starts: Mapping[str, float], left: float) -> None:
    """The name of each curve beside its beginning, with a line to it: no legend to look up colours in."""
    places = _apart(list(starts.values()), 0.3)
    for i, ((name, start), place) in enumerate(zip(starts.items(), places, strict=True)):
        colour = _look(i)["color"]
        axes.plot([left - 0.16, left], [place, start], color=colour, lw=0.7, clip_on=False)
        at: Any = {"ha": "right", "va": "center", "fontsize": 9.5, "fontweight": "normal" if i else "bold"}
        axes.text(left - 0.19, place, format_label(name), color=colour, **at)


def _mean_miss(curves: Sequence[DetCurve], rates: FloatArray) -> FloatArray:
    """Mean of the miss rates at the loosest thresholds that keep each false-alarm rate."""
    places = [np.searchsorted(curve.false_alarm_rate, rates, side="right") for curve in curves]
    misses = [np.append(1.0, curve.miss_rate)[place] for curve, place in zip(curves, places, strict=True)]
    return np.asarray(np.mean(misses, axis=0))


def _look(place: int) -> dict[str, Any]:
    """Style of a line: the first is strong; the others differ in colour and dashes, 7 x 7 of them."""
    if place == 0:
        return {"color": INK, "lw": 2.6, "zorder": 3}
    i, n = place - 1, len(SERIES)
    return {"color": SERIES[i % n], "linestyle": DASHES[(i + i // n) % n], "lw": 1.5, "zorder": 2}


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The places moved as little as a pass down and one up need for none to be nearer than ``gap`` to the next."""
    order = np.argsort(places)[::-1]
    moved = np.array(places, dtype=np.float64)
    for above, below in pairwise(order):
        moved[below] = min(moved[below], moved[above] - gap)
    lowest = float(normal_deviates(np.array([_EDGE]))[0])
    moved[order[-1]] = max(moved[order[-1]], lowest)
    for below, above in pairwise(order[::-1]):
        moved[above] = max(moved[above], moved[below] + gap)
    return [float(place) for place in moved]


def _told(operating: tuple[float, float]) -> str:
    return f"at the threshold: {operating[0]:.3f} false alarms, {operating[1]:.3f} misses"


def _scale_axes(axes: Axes, end: float) -> None:
    ticks, names = normal_deviates(np.array(_TICKS)), [f"{tick:g}" for tick in _TICKS]
    axes.set_xticks(ticks, names, rotation=45)
    axes.set_yticks(ticks, names)
    reach = normal_deviates(np.array([_EDGE, end]))
    axes.set(xlim=reach, ylim=reach, aspect="equal")


def _furthest(eer: float, operating: tuple[float, float] | None) -> float:
    """Where both axes end: .6, or beyond the marks where they lie further out."""
    mark = max(eer, *(operating or (0.0, 0.0)))
    return min(max(0.6, mark + 0.3 * (1 - mark)), 1 - _EDGE)
