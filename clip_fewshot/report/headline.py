"""The headline: one row per method, and what a reader must be warned of."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from clip_fewshot.data.names import number
from clip_fewshot.plots import text
from clip_fewshot.plots.methods import BASELINE_TITLES, order_methods
from clip_fewshot.report.verdict import write_conclusions, write_verdict
from clip_fewshot.runtime.result_rows import ResultRows

if TYPE_CHECKING:
    import pandas

# Whether probabilities are right: keys of results.json, and how they are called in tables.
FIGURES = {"nll": "NLL", "brier": "Brier", "ece": "ECE"}

BLIND_BELOW = 0.8  # AUROC of the detector on broken copies


class HeadlineRow(NamedTuple):
    """One method on the sealed test images; all accuracies are fractions in [0, 1].

    Attributes:
        figures: what is known of "nll", "brier" and "ece", each with its interval as it stands in results.json.
    """

    name: str
    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    macro_f1: float | None
    n_test: int
    settings: str
    best: bool
    figures: Mapping[str, Mapping[str, Any]]


class RunResults(dict[str, Any]):
    """The content of results.json, of which a notebook shows the headline; ``to_frame()`` has a row per method."""

    def __repr__(self) -> str:
        return f"RunResults: {write_verdict(self)}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(headline_table(self))}</pre>"

    def to_frame(self) -> pandas.DataFrame:
        """Method, accuracy with its 95 % interval, macro-F1, test pictures, settings; NLL and so on where known."""
        measured = ("name", "mean", "low", "high", "macro_f1", "n_test", "settings", "best")
        rows = [
            {key: getattr(row, key) for key in measured} | {key: found["mean"] for key, found in row.figures.items()}
            for row in headline_rows(self)
        ]
        return ResultRows(rows).to_frame()


def headline_rows(results: Mapping[str, Any]) -> list[HeadlineRow]:
    """The rows of the headline table: baselines first, then the approaches."""
    return list(_rows(results))


def _rows(results: Mapping[str, Any]) -> Iterator[HeadlineRow]:
    best = results["best"]
    for key, name in BASELINE_TITLES.items():
        accuracy = results.get(key)
        if accuracy is not None:
            yield _row(name, accuracy, accuracy.get("macro_f1"), accuracy.get("params", {}), best["approach"] == key)
    for name in order_methods(set(results["approaches"])):
        entry, won = results["approaches"][name], best["approach"] == name
        macro_f1 = best["macro_f1"] if won else entry.get("macro_f1")
        yield _row(name, entry["test"], macro_f1, entry["params"], won)


def _row(
    name: str, accuracy: Mapping[str, Any], macro_f1: float | None, params: Mapping[str, Any], best: bool
) -> HeadlineRow:
    low, high = accuracy["ci95"]
    per_seed = tuple(accuracy["per_seed"])
    return HeadlineRow(
        text.clean(name),
        accuracy["mean"],
        low,
        high,
        per_seed,
        macro_f1,
        accuracy["n_test"],
        text.format_settings(_chosen(params)),
        best,
        {key: accuracy[key] for key in FIGURES if key in accuracy},
    )


def _chosen(params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the approach: the row has its name already."""
    return {key: value for key, value in params.items() if key != "approach"}


def headline_table(results: Mapping[str, Any]) -> str:
    """The headline as plain text for a terminal: aligned columns, the best method marked with a star, the verdict.

    Args:
        results: a dict of schema 1, see :mod:`clip_fewshot.report.schema`.

    Returns:
        Lines joined by newlines, without a newline at the end.
    """
    rows = headline_rows(results)
    figures = [key for key in FIGURES if any(key in row.figures for row in rows)]
    cells = [("method", "accuracy", "95 % interval", "macro-F1", *map(FIGURES.__getitem__, figures), "n", "settings")]
    cells += [
        (
            ("* " if row.best else "  ") + row.name,
            text.format_fraction(row.mean),
            text.format_interval((row.low, row.high)),
            text.format_fraction(row.macro_f1),
            *(text.format_fraction(row.figures[key]["mean"] if key in row.figures else None) for key in figures),
            str(row.n_test),
            row.settings,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:-1], widths[1:]), line[-1]]).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", write_conclusions(results)])


def collect_warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before trusting the table: the run's own warnings, and those the results imply."""
    found = [text.clean(warning) for warning in results.get("warnings", [])]
    looks = results["search"]["test_looks"]
    if looks > 1:
        found.append(
            f"The test images were looked at {looks} times. A choice made after the first look makes the figures "
            "above optimistic."
        )
    novelty = results["novelty"]
    if novelty is not None and novelty.get("refused"):
        found.append(f"A false-alarm rate of {novelty['alpha']:g} was refused: {text.clean(novelty['refused'])}.")
    if novelty is not None and (novelty["false_alarm_rate"] or 0) > 2 * novelty["alpha"]:
        found.append(
            f"False alarms on {novelty['false_alarm_rate']:.1%} of the known test images where {novelty['alpha']:.1%} "
            "were asked for: to the detector, new images of known classes differ more from the support images than "
            "its calibration expected."
        )
    far = ((novelty or {}).get("selection_far") or {}).get((novelty or {}).get("chosen"), 1.0)
    if far < BLIND_BELOW:
        found.append(
            f"Scrambled and blurred copies of the support images look known to the detector (AUROC {far:.2f}): it may "
            "take pictures of anything for known ones. Another --model may see more in these images."
        )
    failed = results["search"]["failed"]
    if failed:
        found.append(f"{number(failed, 'trial')} of the search failed; see the search below for which.")
    return found


def describe_selection(results: Mapping[str, Any]) -> str:
    """What was chosen on what, in one paragraph: the part of a protocol that is usually left out."""
    seeds, looks = len(results["seeds"]), results["search"]["test_looks"]
    opened = "once, after the last choice" if looks == 1 else f"{looks} times"
    chosen = (
        "Approach, layers, learning rates, margins and C were chosen on validation folds cut out of the support "
        f"images. Each method was then refitted on {number(seeds, 'fresh support set')}, "
        f"and the sealed test images were opened {opened}."
    )
    if results["novelty"] is None:
        return chosen
    return (
        f"{chosen} The novelty threshold comes from known support images alone, and the number of groups was estimated "
        "without labels."
    )
