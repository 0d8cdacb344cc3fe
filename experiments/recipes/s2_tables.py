"""What :mod:`experiments.recipes.s2` found, as text."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

from clip_fewshot.report import tables

Found = dict[str, Any]


def table(found: Found) -> str:
    """A part per defect."""
    pictures = found["pictures"]
    title = (
        f"S2 on {found['data']}, {found['model']}: {found['known']} classes of {found['shots']} pictures, "
        f"{found['hidden']} classes hidden, {found['seeds']} draws, "
        f"{pictures['known']:,} and {pictures['hidden']:,} pictures kept out"
    )
    parts = [approaches(found), leak(found), splits(found["splits"]), novelty(found["novelty"]), groups(found)]
    return "\n\n".join([title, *parts])


def estimate(result: Found) -> str:
    """A mean with its interval, for a table."""
    return tables.estimate(result["mean"], result["ci95"])


def approaches(found: Found) -> str:
    """The softmax before the loss, and captions of one class as negatives of each other."""
    rows = [
        [
            f"{row['approach']}, {row['kind']}",
            *map(tables.format_fraction, (row["loss"], row["floor"], row["loss"] - row["floor"])),
            estimate(row["accuracy"]),
        ]
        for row in found["approaches"]
    ]
    head = ["approach, loss of the last epoch", "loss", "least possible", "above it", "accuracy"]
    return tables.format_plain([head, *rows])


def leak(found: Found) -> str:
    """The label in the logits of a validation."""
    keys = ("validation", "exchanged", "test")
    rows = [[f"mlp-arcface, {row['kind']}", *(estimate(row[key]) for key in keys)] for row in found["leak"]]
    return tables.format_plain(
        [["validated with its labels", "accuracy", "on pictures of other classes", "test"], *rows]
    )


def splits(rows: list[Found]) -> str:
    """A split per trial, and one for all; means over the draws of what their trials scored."""
    names = {"as written": "a split per trial, as written", "ours": "the same folds, ours"}
    head = [f"one configuration, {len(rows[0]['scores'][0])} trials", "F1", "spread", "least", "best", "test"]
    lines = [
        [
            names[row["kind"]],
            *(tables.format_fraction(fmean(map(figure, row["scores"]))) for figure in (fmean, stdev, min, max)),
            estimate(row["test"]),
        ]
        for row in rows
    ]
    return tables.format_plain([head, *lines])


def novelty(row: Found) -> str:
    """A threshold by the labels of the test, and one by a rate that was asked for."""
    names = {
        "as written": "threshold by test labels, as written",
        "as written, on the next draw": "the same number on the next draw",
        "ours": f"false alarms of {row['alpha']:g} asked for, ours",
    }
    keys = ("false alarms", "found")
    rows = [[label, *(estimate(row["rates"][name][key]) for key in keys)] for name, label in names.items()]
    eers = f"equal error rate: {estimate(row['written_eer'])} as written, {estimate(row['our_eer'])} with ours"
    return tables.format_plain([["unknown", "false alarms", "found"], *rows]) + f"\n{eers}"


def groups(found: Found) -> str:
    """A number of groups that was given, and one that was estimated."""
    rows = []
    for way, row in found["novelty"]["groups"].items():
        counts = row["counts"]
        shown = str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        kind = "ours" if way == "estimated" else "as written"
        span = [min(row["accuracies"]), max(row["accuracies"])]
        rows.append([f"{way}, {kind}", shown, str(found["hidden"]), tables.estimate(row["accuracy"], span)])
    return tables.format_plain([["groups of the unknown", "groups", "in truth", "accuracy [least, best draw]"], *rows])
