"""Filled and outlined plane shapes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from experiments.glyphs.fields import Field, FloatArray, field_of_lines, field_of_mask, fit

RASTER = 80
TURN = 2 * np.pi


def _polygon(n: int, turn: float = 0.0) -> FloatArray:
    angle = TURN * (np.arange(n) / n + turn)
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _star(n: int, inner: float) -> FloatArray:
    radius = np.where(np.arange(2 * n) % 2 == 0, 1.0, inner)[:, None]
    return _polygon(2 * n) * radius


def _heart() -> FloatArray:
    t = np.linspace(0, TURN, 60, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _crescent() -> FloatArray:
    t = np.linspace(0.12, 0.88, 40) * TURN
    outer = np.stack([np.cos(t), np.sin(t)], axis=1)
    return np.concatenate([outer, outer[::-1] * [0.55, 0.85] + [0.25, 0.0]])


SHAPES: dict[str, FloatArray] = {
    "circle": _polygon(48),
    "oval": _polygon(48) * [1.0, 0.55],
    "square": _polygon(4, 0.125),
    "rectangle": _polygon(4, 0.125) * [1.0, 0.5],
    "diamond": _polygon(4),
    "triangle": _polygon(3),
    "pentagon": _polygon(5),
    "hexagon": _polygon(6),
    "octagon": _polygon(8, 1 / 16),
    "star": _star(5, 0.42),
    "sun": _star(12, 0.65),
    "cross": np.array(
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)],
        dtype=float,
    ),
    "arrow": np.array([(-3, -1), (0.5, -1), (0.5, -2.5), (3, 0), (0.5, 2.5), (0.5, 1), (-3, 1)], dtype=float),
    "heart": _heart(),
    "crescent": _crescent(),
    "house": np.array([(-2, 3), (-2, -0.5), (0, -3), (2, -0.5), (2, 3)], dtype=float),
    "bolt": np.array([(0.5, -3), (-1.5, 0.5), (0, 0.5), (-0.5, 3), (1.5, -0.8), (0, -0.8)], dtype=float),
    "hourglass": np.array([(-2, -3), (2, -3), (0.2, 0), (2, 3), (-2, 3), (-0.2, 0)], dtype=float),
    "trapezium": np.array([(-1.2, -2), (1.2, -2), (3, 2), (-3, 2)], dtype=float),
    "ring": _polygon(48),
}
OUTLINED_ONLY = {"ring"}


def draw_shape(name: str, rng: np.random.Generator) -> Field:
    """One version of the shape: stretched, turned a little, filled or (one in three) outlined."""
    tilt, stretch = rng.normal(0, 0.12), np.exp(rng.normal(0, 0.12))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    corners = fit(SHAPES[name] * [stretch, 1.0] @ turn)
    if name in OUTLINED_ONLY or rng.random() < 1 / 3:
        return field_of_lines(_outline(corners), float(rng.uniform(0.06, 0.14)))
    raster = Image.new("1", (RASTER, RASTER))
    ImageDraw.Draw(raster).polygon([tuple(p) for p in ((corners + 1) * RASTER / 2).tolist()], fill=1)
    return field_of_mask(np.asarray(raster))


def _outline(corners: FloatArray) -> FloatArray:
    t = np.linspace(0, 1, 24, endpoint=False)[None, :, None]
    closed = np.concatenate([corners, corners[:1]])
    return np.asarray((closed[:-1, None] * (1 - t) + closed[1:, None] * t).reshape(-1, 2))
