"""From record and results to the rows, cards and facts that the page's template lays out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.plots import text
from clip_fewshot.plots.methods import display_name
from clip_fewshot.report.headline import HeadlineRow
from clip_fewshot.report.pictures import thumbnail_uri
from clip_fewshot.report.record import ClusterView
from clip_fewshot.report.verdict import judge_results
from clip_fewshot.runtime.units import format_seconds

MEMBERS_SHOWN = 23


class Tile(NamedTuple):
    """One figure of the first screen, and whether it is good: in words, and True, False or None (open)."""

    value: str
    name: str
    note: str
    grade: str
    good: bool | None


class ClassRow(NamedTuple):
    """One class of the confusion matrix; None where nothing was predicted as it, or nothing shows it."""

    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


class ClusterCard(NamedTuple):
    """One group of flagged pictures."""

    number: int
    size: int
    suggested: str | None
    composition: str
    exemplar: str
    members: tuple[str, ...]
    more: int


class Strip(NamedTuple):
    """Where an interval lies on the table's common scale, in percent."""

    left: float
    width: float
    mark: float


def build_tiles(results: Mapping[str, Any]) -> list[Tile]:
    """The four figures of the first screen; those a run did not measure are left out."""
    best, novelty, discovery = results["best"], results["novelty"], results["discovery"]
    test, difference, grades = best["test"], best.get("difference_to_probe"), judge_results(results)
    note = f"{text.format_interval(test['ci95'])}, {display_name(best['approach'])}"
    found = [Tile(text.format_fraction(test["mean"]), "test accuracy", note, *grades["accuracy"])]
    if difference is not None:
        value, note = text.format_signed(difference["mean"]), text.format_interval(difference["ci95"])
        found.append(Tile(value, "against the frozen probe", note, *grades["probe"]))
    if novelty is not None:
        rate = novelty["detection_rate"]
        note = (
            "no threshold in use"
            if rate is None
            else f"{rate:.0%} caught, {novelty['false_alarm_rate']:.1%} false alarms"
        )
        found.append(Tile(text.format_fraction(novelty["auroc"]), "novelty AUROC", note, *grades["unknown"]))
    if discovery is not None:
        note = f"{discovery['n_unseen']} unseen in truth"
        found.append(Tile(str(discovery["n_clusters"]), "candidate classes found", note, *grades["groups"]))
    return found


def lay_out_strips(rows: Sequence[HeadlineRow]) -> tuple[tuple[float, float], list[Strip]]:
    """A scale in steps of .05 that holds all intervals, and each interval's place on it."""
    low = math.floor(min(row.low for row in rows) * 20) / 20
    high = math.ceil(max(row.high for row in rows) * 20) / 20
    span = max(high - low, 0.05)

    def at(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    return (low, low + span), [Strip(at(r.low), round(at(r.high) - at(r.low), 2), at(r.mean)) for r in rows]


def build_class_rows(counts: NDArray[np.int64], names: Sequence[str]) -> list[ClassRow]:
    """Precision, recall and F1 of each class from the confusion matrix (c, c), rows true."""
    hits, true, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)

    def share(part: int, whole: int) -> float | None:
        return int(part) / int(whole) if whole else None

    return [
        ClassRow(
            name, int(true[i]), share(hits[i], said[i]), share(hits[i], true[i]), share(2 * hits[i], true[i] + said[i])
        )
        for i, name in enumerate(names)
    ]


def cluster_card(cluster: ClusterView) -> ClusterCard:
    """A group with its thumbnails; what is over the limit is only counted."""
    members = tuple(thumbnail_uri(picture, 64) for picture in cluster.members[:MEMBERS_SHOWN])
    said = ", ".join(f"{n:,} {text.shorten(name)}" for name, n in cluster.composition)
    exemplar = thumbnail_uri(cluster.exemplar)
    more = max(cluster.size - 1 - len(members), 0)
    return ClusterCard(cluster.number, cluster.size, cluster.suggested, said, exemplar, members, more)


def collect_facts(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(name, value)]): data, time, configuration, environment."""
    dataset = results["dataset"]
    unseen = ", ".join(dataset["unseen"]) or "none"
    data = [
        ("name", dataset["name"]),
        (f"known classes ({len(dataset['classes'])})", ", ".join(dataset["classes"])),
        (f"held out as unseen ({len(dataset['unseen'])})", unseen),
        ("counts", ", ".join(f"{name} {n:,}" for name, n in dataset["counts"].items())),
        ("fingerprint", dataset["fingerprint"]),
        ("support seeds", ", ".join(str(seed) for seed in results["seeds"])),
    ]
    spent = [(key.replace("_", " "), format_seconds(value)) for key, value in results["timing"].items()]
    return [
        ("Data", data),
        ("Time", spent),
        (
            "Configuration",
            [(key.replace("_", " "), text.format_scalar(value)) for key, value in results["config"].items()],
        ),
        (
            "Environment",
            [(key.replace("_", " "), text.format_scalar(value)) for key, value in results["environment"].items()],
        ),
    ]


def collect_search_facts(search: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the search: trials by state, what they changed, time, looks at the test images."""
    counts = [(f"{state} trials", f"{search[state]:,}") for state in ("finished", "pruned", "failed")]
    naive = search["naive_seconds_estimate"]
    saved = [] if naive is None else [("estimate without reuse of frozen layers", format_seconds(naive))]
    changed = [("what it changed", _say_changed(search))] if "moved" in search else []
    return [
        *counts,
        *changed,
        ("time", format_seconds(search["seconds"])),
        *saved,
        ("looks at the test images", str(search["test_looks"])),
    ]


def _say_changed(search: Mapping[str, Any]) -> str:
    """Where a study of many trials ends where it began, its reader should know."""
    if search["moved"]:
        return f"better settings than at the start: {', '.join(display_name(name) for name in search['moved'])}"
    same = f"; {search['tied']} whole trials share the best score, and the first is kept" if search["tied"] > 1 else ""
    return f"nothing: every approach ends with the settings it began with{same}"
