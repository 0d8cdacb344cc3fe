"""Novelty: the scores of known and of novel images."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.report.plots.style import INK, KNOWN, NOVEL, Plot, render
from clip_fewshot.report.record import NoveltyView
from clip_fewshot.types import FloatArray


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
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2 if tail else -0.15), ncols=3, columnspacing=1.2)
        axes.margins(x=0.02)

    return Plot(render(5.4, 4.8, paint), _describe(view) + (f" In the figure {tail}." if tail else ""))


def _paint_histogram(
    axes: Axes, scores: FloatArray, bins: list[float], colour: str, name: str, hatch: str | None = None
) -> None:
    """A tinted area and its outline; the hatch tells the two apart without colour."""
    area: Any = {"histtype": "stepfilled", "alpha": 0.25, "hatch": hatch, "lw": 0}
    axes.hist(scores, bins=bins, density=True, color=colour, label=f"{name} (n = {len(scores):,})", **area)
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
