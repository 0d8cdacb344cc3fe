"""Novelty: the detection error trade-off."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.report.plots.style import INK, KNOWN, NOVEL, SOFT, Plot, render
from clip_fewshot.report.record import NoveltyView
from clip_fewshot.types import FloatArray

_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
_EDGE = 0.0005  # rates nearer to 0 or 1 than this are drawn at this place: the axes have no end


def deviate(rates: FloatArray) -> FloatArray:
    """Rates in [0, 1] -> their normal deviates, clipped to the ends of the axes."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(min(max(float(rate), _EDGE), 1 - _EDGE)) for rate in np.atleast_1d(rates)])


def equal_error(view: NoveltyView) -> float:
    """The rate at which the drawn curve crosses its diagonal, to the resolution of its points."""
    nearest = int(np.abs(view.false_alarm - view.miss).argmin())
    return float(view.false_alarm[nearest] + view.miss[nearest]) / 2


def operating_point(view: NoveltyView) -> tuple[float, float] | None:
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
    eer, operating = equal_error(view), operating_point(view)

    def paint(axes: Axes) -> None:
        ends = deviate(np.array([_EDGE, 1 - _EDGE]))
        axes.plot(ends, ends, color=SOFT, lw=0.8, ls=":")
        axes.plot(deviate(view.false_alarm), deviate(view.miss), color=KNOWN)
        place = deviate(np.array([eer]))
        axes.plot(place, place, "o", color=INK, ms=7, label=f"equal error rate {eer:.3f}")
        if operating is not None:
            x, y = deviate(np.array(operating))
            axes.plot([x], [y], "D", color=NOVEL, ms=7, label=_told(operating))
        _scale_axes(axes, _furthest(eer, operating))
        axes.set_xlabel("false alarms: known images flagged")
        axes.set_ylabel("misses: novel images not flagged")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22))

    alt = f"Detection error trade-off curve on normal-deviate axes; equal error rate {eer:.3f}"
    return Plot(render(5.2, 5.2, paint), f"{alt}; {_told(operating)}." if operating else f"{alt}.")


def _told(operating: tuple[float, float]) -> str:
    return f"at the threshold: {operating[0]:.3f} false alarms, {operating[1]:.3f} misses"


def _scale_axes(axes: Axes, end: float) -> None:
    ticks, names = deviate(np.array(_TICKS)), [f"{tick:g}" for tick in _TICKS]
    axes.set_xticks(ticks, names, rotation=45)
    axes.set_yticks(ticks, names)
    reach = deviate(np.array([_EDGE, end]))
    axes.set(xlim=reach, ylim=reach, aspect="equal")


def _furthest(eer: float, operating: tuple[float, float] | None) -> float:
    """Where both axes end: .6, or beyond the marks where they lie further out."""
    mark = max(eer, *(operating or (0.0, 0.0)))
    return min(max(0.6, mark + 0.3 * (1 - mark)), 1 - _EDGE)
