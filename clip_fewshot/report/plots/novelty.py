"""Novelty: the detection error trade-off and the scores behind it."""

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


def det_plot(view: NoveltyView, eer: float, operating: tuple[float, float] | None) -> Plot:
    """The DET curve on normal-deviate axes: two normal score distributions give a straight line.

    Martin, Doddington, Kamm, Ordowski, Przybocki: "The DET curve in assessment of detection task performance", 1997.

    Args:
        view: the curve.
        eer: equal error rate in [0, 1].
        operating: (false-alarm rate, miss rate) at the threshold in use, None without one.
    """

    def paint(axes: Axes) -> None:
        ends = deviate(np.array([_EDGE, 1 - _EDGE]))
        axes.plot(ends, ends, color=SOFT, lw=0.8, ls=":")
        axes.plot(deviate(view.false_alarm), deviate(view.miss), color=KNOWN)
        place = deviate(np.array([eer]))
        axes.plot(place, place, "o", color=INK, ms=7, label=f"equal error rate {eer:.3f}")
        if operating is not None:
            x, y = deviate(np.array(operating))
            legend = f"in use: {operating[0]:.3f} alarms, {operating[1]:.3f} missed"
            axes.plot([x], [y], "D", color=NOVEL, ms=7, label=legend)
        ticks = deviate(np.array(_TICKS))
        names = [f"{tick:g}" for tick in _TICKS]
        axes.set_xticks(ticks, names, rotation=45)
        axes.set_yticks(ticks, names)
        reach = deviate(np.array([_EDGE, _furthest(view, operating)]))
        axes.set(xlim=reach, ylim=reach, aspect="equal")
        axes.set_xlabel("false alarms: known images flagged")
        axes.set_ylabel("misses: novel images not flagged")
        axes.legend(loc="upper right")

    alt = f"Detection error trade-off curve on normal-deviate axes; equal error rate {eer:.3f}."
    if operating is not None:
        alt += f" The threshold in use gives {operating[0]:.3f} false alarms and {operating[1]:.3f} misses."
    return Plot(render(5.2, 4.7, paint), alt)


def _furthest(view: NoveltyView, operating: tuple[float, float] | None) -> float:
    """Where both axes end: beyond the point the curve's ends need, .6 at least."""
    used = [0.6, *(operating or ())]
    inside = [float(min(pair)) for pair in zip(view.false_alarm, view.miss, strict=True)]
    return float(min(max(used + inside) * 1.05, 1 - _EDGE))


def density_plot(view: NoveltyView) -> Plot:
    """Histograms of both kinds of score on common bins, each with area one, and the threshold."""
    scores = np.concatenate([view.known_scores, view.novel_scores])
    low, high = _shown_range(scores, view.threshold)
    bins = np.linspace(low, high, 36).tolist()

    below = int((scores < low).sum())
    tail = f"the first bar also holds {below} lower scores" if below else ""

    def paint(axes: Axes) -> None:
        _paint_histogram(axes, np.clip(view.known_scores, low, high), bins, KNOWN, "known")
        _paint_histogram(axes, np.clip(view.novel_scores, low, high), bins, NOVEL, "novel", hatch="///")
        if view.threshold is not None:
            axes.axvline(view.threshold, color=INK, lw=1.2, ls="--", label=f"threshold {view.threshold:.3g}")
        axes.set_xlabel("novelty score (higher = more like the known classes)" + (f"\n{tail}" if tail else ""))
        axes.set_ylabel("density")
        axes.legend(loc="upper left")
        axes.margins(x=0.02)

    return Plot(render(5.4, 4.5, paint), _describe(view) + (f" In the figure {tail}." if tail else ""))


def _paint_histogram(
    axes: Axes, scores: FloatArray, bins: list[float], colour: str, name: str, hatch: str | None = None
) -> None:
    """A tinted area and its outline; the hatch tells the two apart without colour."""
    legend = f"{name} (n = {len(scores):,})"
    axes.hist(
        scores,
        bins=bins,
        density=True,
        histtype="stepfilled",
        color=colour,
        alpha=0.25,
        hatch=hatch,
        lw=0,
        label=legend,
    )
    axes.hist(scores, bins=bins, density=True, histtype="step", color=colour)


def _shown_range(scores: FloatArray, threshold: float | None) -> tuple[float, float]:
    """Without the longest one percent of the lower tail: one far outlier would squeeze everything else into a bar."""
    low, high = float(np.quantile(scores, 0.01)), float(scores.max())
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    pad = 0.03 * (high - low) or 0.5
    return low - pad, high + pad


def _describe(view: NoveltyView) -> str:
    parts = f"Scores of {len(view.known_scores):,} known and {len(view.novel_scores):,} novel test images."
    if view.threshold is None:
        return f"{parts} There is no threshold."
    flagged = [float((s < view.threshold).mean()) for s in (view.known_scores, view.novel_scores)]
    return f"{parts} Below the threshold lie {flagged[0]:.1%} of the known and {flagged[1]:.1%} of the novel ones."
