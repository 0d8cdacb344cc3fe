"""Reliability: how often a class is right that is given with some probability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.evaluation.reliability import ReliabilityBins
from clip_fewshot.plots.methods import display_name
from clip_fewshot.plots.style import DASHES, MARKERS, SERIES, SOFT, Plot, choose_style, format_label, render


def reliability_plot(curves: Mapping[str, ReliabilityBins]) -> Plot:
    """Accuracy over confidence, a line per method: below the diagonal it is too sure, above it too unsure.

    DeGroot and Fienberg, "The comparison and evaluation of forecasters", 1983.

    Args:
        curves: method -> its bins; the last is drawn stronger.
    """
    last = list(curves)[-1]

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=SOFT, lw=0.8, ls=":")
        for i, (name, bins) in enumerate(curves.items()):
            look, strong = choose_style(name, i), name == last
            axes.plot(
                bins.confidence,
                bins.accuracy,
                color=SERIES[look],
                marker=MARKERS[look],
                linestyle=DASHES[look],
                lw=2.2 if strong else 1.2,
                ms=6 if strong else 4,
                label=format_label(display_name(name)),
            )
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal", xlabel="probability of the class", ylabel="accuracy")
        axes.legend(loc="upper left")

    return Plot(render(4.9, 4.9, paint), _describe(curves))


def _describe(curves: Mapping[str, ReliabilityBins]) -> str:
    said = "; ".join(f"{format_label(display_name(name))} {_means(bins)}" for name, bins in curves.items())
    return f"Accuracy by the probability that is given. Mean probability and accuracy: {said}."


def _means(bins: ReliabilityBins) -> str:
    confidence, accuracy = (float(np.average(values, weights=bins.size)) for values in bins[:2])
    return f"{confidence:.3f}, {accuracy:.3f}"
