"""The headline: one row per method, the verdict, and what a reader must be warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from clip_fewshot.plots import text
from clip_fewshot.plots.methods import BASELINE_TITLES, CLOSED_FORMS, display_name, order_methods

# Whether probabilities are right: keys of results.json, and how they are called in tables.
FIGURES = {"nll": "NLL", "brier": "Brier", "ece": "ECE"}


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
    """The headline as plain text for a terminal: aligned columns, the best method marked with a star.

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
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", write_verdict(results)])


def write_verdict(results: Mapping[str, Any]) -> str:
    """One or two sentences: which method won, by how much, and whether the data can tell."""
    best = results["best"]
    name, test = display_name(best["approach"]), best["test"]
    images = text.format_count(test["n_test"], "sealed test image")
    reached = f"accuracy {text.format_fraction(test['mean'])} {text.format_interval(test['ci95'])} on {images}"
    return " ".join((f"{name} was chosen: {reached}.", *_compare(best, results)))


def _compare(best: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    """What the test set says of the choice: a win is one over every baseline."""
    if best["approach"] in CLOSED_FORMS:
        yield "No trained approach beat it in validation by more than the noise (one standard error)."
    probe = best.get("difference_to_probe")
    differences = best.get("differences") or ({} if probe is None else {"linear_probe": probe})
    if not differences and best["approach"] != "linear_probe":
        held = results["linear_probe"]
        yield f"The frozen probe has {text.format_fraction(held['mean'])} {text.format_interval(held['ci95'])}."
    ahead = {name: found for name, found in differences.items() if found["ci95"][0] > 0}
    behind = {name: found for name, found in differences.items() if found["ci95"][1] < 0}
    level = {name: found for name, found in differences.items() if name not in {**ahead, **behind}}
    if ahead:
        every = "every baseline, " if len(ahead) == len(differences) > 1 else ""
        yield f"It beats {every}{_list_gains(ahead)}."
    if behind:
        yield f"On the test images it is behind {_list_gains(behind)}."
    if level:
        yield f"The difference to {_list_gains(level)} is within the noise."


def _list_gains(differences: Mapping[str, Mapping[str, Any]]) -> str:
    """Each baseline with what the chosen method has more, on the same support sets and images."""
    return "; ".join(_gain(display_name(name), found) for name, found in differences.items())


def _gain(name: str, found: Mapping[str, Any]) -> str:
    wins, draws = sum(value > 0 for value in found["per_seed"]), len(found["per_seed"])
    gain = f"{text.format_signed(found['mean'])} {text.format_interval(found['ci95'])}"
    return f"{name} ({gain}, ahead on {wins} of {draws} support sets)"


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
    failed = results["search"]["failed"]
    if failed:
        found.append(f"{text.format_count(failed, 'trial')} of the search failed; see the search below for which.")
    return found


def describe_selection(results: Mapping[str, Any]) -> str:
    """What was chosen on what, in one paragraph: the part of a protocol that is usually left out."""
    seeds, looks = len(results["seeds"]), results["search"]["test_looks"]
    opened = "once, after the last choice" if looks == 1 else f"{looks} times"
    chosen = (
        "Approach, layers, learning rates, margins and C were chosen on validation folds cut out of the support "
        f"images. Each method was then refitted on {text.format_count(seeds, 'fresh support set')}, "
        f"and the sealed test images were opened {opened}."
    )
    if results["novelty"] is None:
        return chosen
    return (
        f"{chosen} The novelty threshold comes from known support images alone, and the number of groups was estimated "
        "without labels."
    )
