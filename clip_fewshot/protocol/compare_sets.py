"""The comparison of methods over several sets of pictures: what is asked, printed and written, in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.few_shot.approach import Approach
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.compare_methods import choose_methods, describe_scene, measure_methods
from clip_fewshot.protocol.method_scene import ComparedSet, arrange_methods
from clip_fewshot.protocol.method_tables import (
    describe_differences,
    describe_head,
    describe_summary,
    draw_methods,
    list_errors,
    method_cells,
    save_methods,
    summarise_sets,
)
from clip_fewshot.protocol.published import describe_published, select_published
from clip_fewshot.report.tables import format_markdown_row
from clip_fewshot.types import Progress, Say


@dataclass(frozen=True)
class MethodPlan:
    """What is compared.

    Attributes:
        approaches, reference: as of :func:`~clip_fewshot.protocol.compare_methods.choose_methods`.
        shot_counts, seeds, seed: as of :func:`~clip_fewshot.protocol.method_scene.arrange_methods`.
        settings: of approaches that train.
        published: whether published numbers are put beside.

    Raises:
        UsageError: a name that is none, before anything is read.
    """

    approaches: Sequence[str | Approach]
    reference: str | None
    shot_counts: Sequence[int]
    seeds: int
    seed: int
    settings: TrainSettings
    published: bool = False

    def __post_init__(self) -> None:
        choose_methods(self.approaches, self.reference, texts=True)


def compare_sets(
    opened: Iterable[tuple[str, ComparedSet]],
    plan: MethodPlan,
    out: Path,
    command: str,
    show: Say,
    warn: Callable[[Iterable[str]], None],
    progress: Progress,
) -> dict[str, Any]:
    """Compare on each set, one after the other; every row is shown and written as soon as it is there.

    Args:
        opened: name and content of each set.
        out: folder for compare.json, compare.csv, compare.tex and compare.svg.
        command: what repeats the comparison, for compare.json.
        show, warn: given what is to be read on the way.

    Returns:
        the content of compare.json, schema 1.
    """
    draws = {"seeds": plan.seeds, "seed": plan.seed}
    record: dict[str, Any] = {"schema": 1, "command": command, **draws, "sets": [], "summary": None, "published": []}
    for name, compared in opened:
        scene = arrange_methods(compared, plan.shot_counts, plan.seeds, plan.seed, plan.settings)
        methods = choose_methods(plan.approaches, plan.reference, texts=scene.texts is not None)
        entry = describe_scene(scene, name, methods[0].name)
        record["sets"].append(entry)
        warn(scene.warnings)
        show(describe_head(entry))
        for row in measure_methods(scene, methods, progress):
            entry["rows"].append(row)
            save_methods(record, out)  # before it is shown: standard output may be gone
            show(format_markdown_row(method_cells(row)))
            warn(list_errors(row))
        show(describe_differences(entry))
    _finish(record, plan, out, show)
    return record


def _finish(record: dict[str, Any], plan: MethodPlan, out: Path, show: Say) -> None:
    """What is known once all sets are done."""
    if len(record["sets"]) > 1:
        record["summary"] = summarise_sets(record["sets"])
        show(describe_summary(record["summary"]))
    if plan.published:
        models = sorted({entry["model"] for entry in record["sets"]})
        names = [entry["name"] for entry in record["sets"]]
        record["published"] = [one for model in models for one in select_published(model, names)]
        show(describe_published(record["published"], models))
    save_methods(record, out)
    draw_methods(record, out)
