"""Image and text embeddings in the plane of their first two principal components."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from clip_fewshot.geometry import unit_rows
from clip_fewshot.plots.style import INK, MARKERS, RASTER_ABOVE, SERIES, SOFT, Plot, format_label, render
from clip_fewshot.plots.views import EmbeddingView
from clip_fewshot.types import FloatArray, IndexArray

_SHOWN_AT_MOST = 2000
_HALO = {"facecolor": "white", "alpha": 0.65, "linewidth": 0, "pad": 0.6}


def project_on_plane(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(n, d) rows -> their (n, 2) coordinates on the first two principal axes, and the (2,) variance shares.

    Signs are fixed so that the largest loading of each axis is positive: the picture does not flip between runs.
    """
    centred = x - x.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    plane, power = np.zeros((len(x), 2)), np.zeros(2)
    plane[:, : len(axes)] = centred @ axes.T
    total = float((spread**2).sum())
    power[: len(axes)] = spread[:2] ** 2 / total if total > 0 else 0.0
    return plane, power


def measure_modality_gap(images: FloatArray, texts: FloatArray) -> float:
    """Distance between the mean image and the mean text embedding on the unit sphere, in [0, 2].

    Liang, Zhang, Kwon, Yeung, Zou: "Mind the Gap", 2022, section 2.
    """
    image, text = (unit_rows(np.asarray(rows, np.float64)).mean(axis=0) for rows in (images, texts))
    return float(np.linalg.norm(image - text))


def measure_spread(rows: FloatArray) -> float:
    """Root mean square distance of unit rows from their mean, in [0, 1]: what a gap is large or small against."""
    unit = unit_rows(np.asarray(rows, np.float64))
    return float(np.sqrt(((unit - unit.mean(axis=0)) ** 2).sum(axis=1).mean()))


def embedding_plot(view: EmbeddingView) -> Plot:
    """Images as small marks by class, class names as large ones; both normalised, one plane fitted to both."""
    rows = _evenly(len(view.images))
    images, texts = (unit_rows(np.asarray(x, np.float64)) for x in (view.images[rows], view.texts))
    labels = view.labels[rows]
    plane, power = project_on_plane(np.concatenate([images, texts]))

    def paint(axes: Axes) -> None:
        _paint_images(axes, plane[: len(images)], np.asarray(labels), len(view.names))
        _paint_texts(axes, plane[len(images) :], view.names)
        axes.set_xlabel(f"component 1 ({power[0]:.0%} of the variance)")
        axes.set_ylabel(f"component 2 ({power[1]:.0%})")
        axes.margins(0.1)

    return Plot(render(5.4, 4.4, paint), _describe(view, len(rows), float(power.sum())))


def _evenly(n: int) -> IndexArray:
    return np.unique(np.linspace(0, n - 1, min(n, _SHOWN_AT_MOST)).astype(np.int64))


def _look(label_: int, n_names: int) -> tuple[str, str]:
    """Colour and marker of a class; one neutral marker for all where there are more classes than styles."""
    if label_ < 0 or n_names > len(SERIES) * len(MARKERS):
        return SOFT, "."
    return SERIES[label_ % len(SERIES)], MARKERS[label_ // len(SERIES)]


def _paint_images(axes: Axes, plane: FloatArray, labels: FloatArray, n_names: int) -> None:
    for value in np.unique(labels):
        colour, marker = _look(int(value), n_names)
        x, y = plane[labels == value].T
        raster = len(plane) > RASTER_ABOVE
        axes.scatter(x, y, s=16, marker=marker, color=colour, alpha=0.55, linewidths=0, rasterized=raster)


def _paint_texts(axes: Axes, plane: FloatArray, names: tuple[str, ...]) -> None:
    for i, (x, y) in enumerate(plane):
        axes.scatter(x, y, s=90, marker="*", color=_look(i, len(names))[0], edgecolors=INK, linewidths=0.6, zorder=4)
    if len(names) <= 2 * len(SERIES):
        for name, (x, y) in zip(names, plane, strict=False):
            axes.annotate(
                format_label(name, 14),
                (x, y),
                xytext=(5, 3),
                textcoords="offset points",
                fontsize=9,
                zorder=5,
                bbox=_HALO,
            )


def _describe(view: EmbeddingView, shown: int, power: float) -> str:
    what = f"{shown:,} image embeddings" + (f" and {len(view.texts)} class names" if len(view.texts) else "")
    head = (
        f"{what} ({format_label(view.title, 40)}) on their first two principal components, {power:.0%} of the variance."
    )
    if not len(view.texts):
        return head
    return (
        f"{head} The distance between mean image and mean text is {measure_modality_gap(view.images, view.texts):.2f}."
    )
