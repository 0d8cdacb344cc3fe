"""Does every detector keep its false alarms as a rejector calibrates it?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from scipy.stats import t

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import DETECTORS
from clip_fewshot.open_world.alternatives import Alternative
from clip_fewshot.open_world.judges import LabelledRows
from clip_fewshot.open_world.rejector import calibrate_shots
from clip_fewshot.open_world.text_features import Texts
from clip_fewshot.report import tables
from clip_fewshot.types import FloatArray, Progress
from experiments.simulated import SHAPES, Draw, Shape, draw, texts

LEVELS = (0.05, 0.1)
JUDGED, STRANGE = 100, 10  # known and new pictures of a draw
ALONE, PER_CLASS, TOGETHER = "alone", "per class", "together"
ONE_IN = 20  # draws that are also judged together: a batch takes a fit for each known picture
DOUBT = 0.05  # of any cell being marked by chance


def detectors(draws: int, seed: int, neighbors: int, update: Progress) -> list[dict[str, Any]]:
    """A row for each shape, detector and way of calibration, a cell in it for each level."""
    chosen = [
        Alternative(name, n_neighbors=neighbors if part.neighbourly else None) for name, part in DETECTORS.items()
    ]
    rows = [row for shape in SHAPES for row in _judge_shape(shape, chosen, draws, seed, update)]
    mark([cell for row in rows for cell in row["cells"] if not cell["refused"]])
    return rows


def mark(cells: list[dict[str, Any]]) -> None:
    """Write into each cell whether alpha is kept: Student's test of one side, Bonferroni over cells."""
    for cell in cells:
        beyond = t.isf(DOUBT / len(cells), cell["draws"] - 1)
        cell["kept"] = bool(cell["rate"] <= cell["alpha"] + beyond * cell["se"] + 1e-9)


def _judge_shape(
    shape: Shape, chosen: list[Alternative], draws: int, seed: int, update: Progress
) -> list[dict[str, Any]]:
    ways = [(one, way) for one in chosen for way in _ways(one)]
    flags: dict[Any, list[Any]] = defaultdict(list)
    refused: dict[Any, list[str | None]] = {}
    for i in range(draws):
        update(f"detectors, {shape.name}", i + 1, draws)
        world = draw(shape, seed + i, JUDGED, STRANGE)
        said = texts(world, seed + i)
        for one, way in ways:
            rare = way == TOGETHER and i > 1 and i % ONE_IN  # two give a standard error
            if not rare and not all(refused.get((one, way), (None,))):
                refused[one, way], found = judge(one, world, said, seed + i, way)
                flags[one, way].append(found)
    return [
        {
            "shape": shape.name,
            "detector": one.detector,
            "calibrated": _say(one, way),
            "cells": [
                _measure(np.array(flags[one, way])[:, j], level, refused[one, way][j]) for j, level in enumerate(LEVELS)
            ],
        }
        for one, way in ways
    ]


def judge(
    one: Alternative, world: Draw, said: Texts, seed: int, way: str = ALONE
) -> tuple[list[str | None], FloatArray]:
    """Why each level is refused, or None; (levels, pictures) which known and, after them, new ones are flagged."""
    pictures = np.concatenate([world.known, world.novel])
    try:
        shots = LabelledRows(world.X, world.y)
        rejector = calibrate_shots(one, shots, said, seed, way == PER_CLASS)
        refused = [rejector.refusal(level) for level in LEVELS]
        p = np.ones(len(pictures)) if all(refused) else rejector.verdict(pictures, (), way == TOGETHER).p
    except UsageError as error:
        return [f"it takes {error.expected}" for _ in LEVELS], np.zeros((len(LEVELS), len(pictures)))
    return refused, np.array([rejector.flags(p, level) for level in LEVELS], dtype=np.float64)


def _measure(flags: FloatArray, level: float, refused: str | None) -> dict[str, Any]:
    """Of (draws, pictures): the rate of false alarms, its standard error over draws, and the share found."""
    if refused:
        return {"alpha": level, "refused": refused}
    shares = flags[:, :JUDGED].mean(axis=1)
    found = {"draws": len(shares), "rate": float(shares.mean())}
    found |= {"se": float(shares.std(ddof=1) / np.sqrt(len(shares)))}
    return {"alpha": level, "refused": None, **found, "detected": float(flags[:, JUDGED:].mean())}


def _ways(one: Alternative) -> tuple[str, ...]:
    return (ALONE, PER_CLASS, TOGETHER) if one.scheme else (ALONE, TOGETHER)


def _say(one: Alternative, way: str) -> str:
    if way == TOGETHER:
        return way
    if one.scheme is not None:
        return f"{one.scheme}, {way if way == PER_CLASS else 'levelled'}"
    return "no picture fits it" if one.needs_texts else "folds"


def table(rows: list[dict[str, Any]], draws: int) -> str:
    """A line for each row; an exclamation mark where alpha is exceeded beyond chance."""
    head = ["shape, detector, calibration", *(f"alpha {level:g}" for level in LEVELS), f"found at {LEVELS[-1]:g}"]
    lines = [
        [f"{row['shape']}, {row['detector']}, {row['calibrated']}", *map(_cell, row["cells"]), _found(row["cells"][-1])]
        for row in rows
    ]
    title = f"\nFalse alarms of every detector, {draws:,} draws, {JUDGED} known and {STRANGE} new pictures each"
    title += f", one in {ONE_IN} of them together"
    return f"{title}; +- standard error\n{tables.format_plain([head, *lines])}"


def _cell(cell: dict[str, Any]) -> str:
    if cell["refused"]:
        return "refused"
    return f"{cell['rate']:.4f} +- {cell['se']:.4f}{'' if cell['kept'] else ' !'}"


def _found(cell: dict[str, Any]) -> str:
    return "" if cell["refused"] else f"{cell['detected']:.2f}"
