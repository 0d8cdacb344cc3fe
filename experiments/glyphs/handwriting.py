"""Skeletons written by many imagined hands: jitter, warp, slant and width, each drawn from a seeded generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.glyphs.fields import Field, FloatArray, field_of_lines, fit
from experiments.glyphs.strokes import Stroke, parse

PEN = 0.09  # half width of the stored pen, near the thinnest; drawing thickens it
SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu", "va", "ze")


def write(strokes: Sequence[Stroke], rng: np.random.Generator) -> Field:
    """One hand's version of a skeleton."""
    jitter = rng.uniform(0.1, 0.6)
    traced = [Stroke(s.points + rng.normal(0, jitter, s.points.shape), s.straight).trace() for s in strokes]
    points = np.concatenate(traced) / 14
    points = _slant(_warp(points, rng), rng)
    return field_of_lines(fit(points), PEN)


def _warp(points: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Bend the sheet: a sum of a few slow waves."""
    bent = points.copy()
    for _ in range(3):
        wave, phase = rng.normal(0, 2.5, 2), rng.uniform(0, 2 * np.pi)
        bent = bent + rng.normal(0, 0.02, 2) * np.sin(points @ wave + phase)[:, None]
    return bent


def _slant(points: FloatArray, rng: np.random.Generator) -> FloatArray:
    shear, tilt = rng.normal(0, 0.18), rng.normal(0, 0.08)
    width = np.exp(rng.normal(0, 0.2))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    slanted: FloatArray = points @ np.array([[width, 0.0], [-shear, 1.0]]) @ turn
    return slanted


def write_many(skeletons: Sequence[str], n: int, rng: np.random.Generator) -> list[Field]:
    """``n`` versions, the ways of writing in turn."""
    parsed = [parse(text) for text in skeletons]
    return [write(parsed[i % len(parsed)], rng) for i in range(n)]


def invent(rng: np.random.Generator) -> str:
    """Skeleton of a character of no script: one to three strokes between points of a coarse grid."""
    strokes = []
    for _ in range(rng.integers(1, 4)):
        kind = "C" if rng.random() < 0.6 else "L"
        n = rng.integers(3, 6) if kind == "C" else rng.integers(2, 4)
        points = [(rng.integers(0, 4) * 10 / 3, rng.integers(0, 5) * 3.5) for _ in range(n)]
        strokes.append(f"{kind} " + " ".join(f"{x:.2f},{y:.2f}" for x, y in points))
    return " | ".join(strokes)


def invented_name(i: int) -> str:
    """Pronounceable name of the i-th invented character, distinct for i < 1,728."""
    base = len(SYLLABLES)
    return SYLLABLES[i % base] + SYLLABLES[i // base % base] + SYLLABLES[(i * 7 + i // base**2) % base]
