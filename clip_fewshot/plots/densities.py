"""Novelty: the scores of known and of novel images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.data.names import number
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.plots.style import INK, KNOWN, NOVEL, Plot, format_label, render
from clip_fewshot.plots.views import NoveltyView
from clip_fewshot.types import BoolArray, FloatArray


def density_plot(view: NoveltyView) -> Plot:
    """Histograms of both kinds of score on common bins, each with area one, and the threshold."""
    scores = np.concatenate([view.known_scores, view.novel_scores])
    low, high = _shown_range(scores, view.threshold)
    bins = np.linspace(low, high, 36).tolist()

    below = int((scores < low).sum())
    tail = f"the first bar also holds {number(below, 'lower score')}" if below else ""

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


def density_panels(scores: Mapping[str, FloatArray], is_novel: BoolArray) -> Plot:
    """The scores of several detectors for the same images, each in a panel and on a scale of its own.

    Args:
        scores: detector -> (n,), higher = more normal.
    """
    areas = {name: auroc(is_novel, found) for name, found in scores.items()}

    def painter(name: str, found: FloatArray) -> Callable[[Axes], None]:
        def paint(axes: Axes) -> None:
            low, high = _shown_range(found, None)
            bins, held = np.linspace(low, high, 30).tolist(), np.clip(found, low, high)
            _paint_histogram(axes, held[~is_novel], bins, KNOWN, "known")
            _paint_histogram(axes, held[is_novel], bins, NOVEL, "novel", hatch="///")
            axes.set_title(f"{format_label(name)}, AUROC {areas[name]:.3f}", fontsize=10, loc="left", pad=16)
            # Novel images score lower: their name always stands on the side where they are.
            axes.text(0, 1.02, "novel", color=NOVEL, fontsize=9, transform=axes.transAxes)
            axes.text(1, 1.02, "known", color=KNOWN, fontsize=9, ha="right", transform=axes.transAxes)
            axes.set_yticks([])
            axes.tick_params(axis="x", labelsize=8)
            axes.locator_params(axis="x", nbins=4)

        return paint

    columns = min(len(scores), 4)
    height = 0.3 + 2.1 * -(-len(scores) // columns)
    drawing = render(2.6 * columns, height, *(painter(*item) for item in scores.items()), columns=columns)
    said = ", ".join(f"{format_label(name)} {area:.3f}" for name, area in areas.items())
    return Plot(drawing, f"Scores of known and novel images under one support set; AUROC: {said}.")


def _paint_histogram(
    axes: Axes, scores: FloatArray, bins: list[float], colour: str, name: str, hatch: str | None = None
) -> None:
    """A tinted area and its outline; the hatch shows which is which without colour."""
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
