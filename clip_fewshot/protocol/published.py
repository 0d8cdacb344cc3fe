"""Accuracies that others have published, to stand beside one's own: `published.csv`, with the source of each.

Eleven sets of pictures as in CoOp (Zhou, Yang, Loy, Liu, "Learning to Prompt for Vision-Language Models", 2022, section
4.1), one support set or the mean of three, percent. Numbers are those that the authors' own repositories hold; what is
known from papers alone, or from figures, is left out. They say how good a method is there, not on other pictures.
Tip-Adapter-F and CLIP-Adapter are the best epoch on the test pictures; the strengths of Tip-Adapter, Tip-X and GDA were
chosen on all validation pictures, of which a user of few shots has none.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from clip_fewshot.report import tables

PUBLISHED_SHOTS = ("0", "1", "2", "4", "8", "16")
AVERAGE = "mean of 11 sets"


@cache
def read_published() -> tuple[dict[str, str], ...]:
    """The rows of the file: ``model``, ``method``, ``set``, percent by shots ("" where there is none), ``source``."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def select_published(model: str, sets: Sequence[str]) -> list[dict[str, Any]]:
    """What is published for a model: the average of the eleven sets, and each set whose name is among ``sets``.

    Returns:
        ``method``, ``set``, ``source`` and ``accuracy``: fractions by shots, 0 for zero-shot.
    """
    rows = [row for row in read_published() if row["model"] == model]
    asked = {_fold(name) for name in sets}
    found = [_entry(row["set"], [row]) for row in rows if _fold(row["set"]) in asked]
    by_method: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    return [*found, *(_entry(AVERAGE, all_of) for all_of in by_method.values())]


def _fold(name: str) -> str:
    """caltech-101, Caltech101 and caltech_101 are one set."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _entry(name: str, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    there = [shots for shots in PUBLISHED_SHOTS if rows[0][shots]]
    means = {shots: round(sum(float(row[shots]) for row in rows) / len(rows) / 100, 4) for shots in there}
    return {"method": rows[0]["method"], "set": name, "source": rows[0]["source"], "accuracy": means}


def describe_published(found: Sequence[dict[str, Any]], models: Sequence[str]) -> str:
    """A Markdown table, with the source of each line."""
    if not found:
        there = ", ".join(sorted({row["model"] for row in read_published()}))
        return f"Nothing published is at hand for {', '.join(models)}: only for {there}."
    rows = [["published", "set", *(f"{shots} shots" for shots in PUBLISHED_SHOTS), "source"]]
    for one in found:
        cells = [tables.format_known(one["accuracy"].get(shots)) for shots in PUBLISHED_SHOTS]
        rows.append([one["method"], one["set"], *cells, one["source"]])
    return tables.format_markdown(rows)
