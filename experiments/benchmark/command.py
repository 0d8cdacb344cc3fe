"""Measure the chosen cases, print them as they come, and keep every repeat."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

from clip_fewshot.errors import ResourceError
from clip_fewshot.runtime.environment import describe_environment
from clip_fewshot.runtime.files import write_json
from clip_fewshot.runtime.outputs import check_file, read_object
from experiments.benchmark import page
from experiments.benchmark.isolation import empty_cache, limit_threads
from experiments.benchmark.options import CASES, Options
from experiments.benchmark.row import Row

RECORDED = {"schema", "command", "options", "machine", "cases"}
PROG = "python -m experiments.benchmark"
DESCRIPTION = (
    "Measure what the shortcuts save: each case does one thing the plain way and ours, in turns in this process, and "
    "shows that both computed the same. Markdown on standard output. Exit code 1: a figure is out of its bounds."
)


def main(options: Options) -> int:
    """Measure, print, and fail where a figure is out of its bounds."""
    if options.record is not None:
        check_file(options.record, options.overwrite, options, lambda path: read_object(path).keys() >= RECORDED)
    command = shlex.join([*PROG.split(), *sys.argv[1:]])
    print(f"`{command}`", flush=True)
    measured = {}
    with limit_threads(options.n_threads), empty_cache():
        for name in options.cases or CASES:
            case = import_module(f"experiments.benchmark.cases.{name}")
            missing = case.missing() if hasattr(case, "missing") else ""
            if missing and name in options.cases:
                raise ResourceError(expected=missing, got="none here", fix="run it where there is one", where=name)
            if missing:
                print(f"{name}: skipped, as there is not {missing}", file=sys.stderr)
            else:
                measured[name] = measure(name, case.rows(options), options)
    if options.record is not None:
        write_json(options.record, record(options, command, measured))
    broken = [check for case in measured.values() for row in case["rows"] for check in row["checks"]]
    return 0 if all(check["holds"] for check in broken) else 1


def measure(name: str, rows: Iterable[Row], options: Options) -> dict[str, Any]:
    """One case, printed while it is measured."""
    before, found = load_average(), []
    print(f"\n**{name}**\n\n{page.head()}", flush=True)
    for row in rows:
        found.append(row)
        print(page.line(row), flush=True)
    load = before, load_average()
    notes = dict.fromkeys(row.note for row in found if row.note)
    print(
        "\n" + " ".join([page.circumstances(asdict(options) | {"threads": options.n_threads}, load), *notes]),
        flush=True,
    )
    return {"rows": [row.to_json() for row in found], "load": load}


def record(options: Options, command: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Everything, for the file."""
    import torch

    chosen = {name: value for name, value in asdict(options).items() if name not in ("record", "cases", "overwrite")}
    machine = describe_environment(torch.device("cpu")) | {"cores": os.cpu_count() or 1}
    return {"schema": 1, "command": command, "options": chosen, "machine": machine, "cases": measured}


def load_average() -> Sequence[float]:
    """Over 1, 5 and 15 minutes; empty on systems that keep none."""
    return tuple(round(value, 2) for value in os.getloadavg()) if hasattr(os, "getloadavg") else ()
