"""An attack is a numbered row of cases; this runs them, each in a process that may die, and writes down what came.

A case is decided by the seed and its number alone, so a run that was stopped goes on where it stood and any line of its
results can be tried again. Results are lines of ``FOLDER/results/NAME, seed SEED.jsonl``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
START = 120.0  # seconds that a process may take to import everything
LIBRARY = ["clip_fewshot.pipeline", "clip_fewshot.open_world.store.store", "tests.attack.scene"]


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        held: whether the library did what it must.
        what: in a word or two: refused, same, read differently, raw KeyError.
        detail: where it did not hold, what to try to see it again.
    """

    held: bool
    what: str
    detail: str = ""


@dataclass(frozen=True)
class Attack:
    """A row of the table.

    Attributes:
        says: what is tried, and what must hold.
        whole: cases of a whole run. small: those of every run of the tests.
        prepare: writes what all cases need below a folder, where it is not there yet.
        strike: (folder, draw, number) -> outcome; the draw belongs to the case.
        patience: seconds after which a case counts as hanging.
    """

    name: str
    says: str
    whole: int
    small: int
    prepare: Callable[[Path], None]
    strike: Callable[[Path, np.random.Generator, int], Outcome]
    patience: float = 60.0


def run(attack: Attack, folder: Path, seed: int, count: int, seconds: float = np.inf) -> list[dict[str, Any]]:
    """Cases 0 to ``count`` - 1 that are not done yet, as far as ``seconds`` allow; all results.

    A case that kills its process, or hangs, is a result too, and the next one gets a new process.
    """
    results = folder / "results" / f"{attack.name}, seed {seed}.jsonl"
    count = min(count, attack.whole)
    results.parent.mkdir(parents=True, exist_ok=True)
    results.touch()
    attack.prepare(folder)
    end = time.monotonic() + seconds
    while (done := len(read(results))) < count and time.monotonic() < end:
        died = _work_apart(attack, folder, seed, range(done, count), results, end)
        if died is not None:
            _append(results, len(read(results)), Outcome(False, died, f"seed {seed}"))
    return read(results)[:count]


def read(results: Path) -> list[dict[str, Any]]:
    """Finished cases in their order."""
    return [json.loads(line) for line in results.read_text().splitlines()]


def _work_apart(attack: Attack, folder: Path, seed: int, numbers: range, results: Path, end: float) -> str | None:
    """A process at the cases in turn; how it died, None if it came to its end or to that of its time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARY)
    begun = context.Event()
    process = context.Process(target=_work, args=(attack.strike, folder, seed, numbers, results, end, begun))
    process.start()
    begun.wait(START)
    size, since = results.stat().st_size, time.monotonic()
    while process.is_alive():
        process.join(0.2)
        now = results.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > attack.patience:
            process.kill()
            process.join()
            return f"hangs for {attack.patience:g} s"
    return None if process.exitcode == 0 else f"dies with {process.exitcode}"


def _work(strike: Any, folder: Path, seed: int, numbers: range, results: Path, end: float, begun: Any) -> None:
    import torch

    begun.set()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _write_to(folder / "streams")  # what cases print is not the table
    for number in numbers:
        if time.monotonic() > end:
            return
        before = _cpu()
        try:
            outcome = strike(folder, np.random.default_rng([seed, number]), number)
        except Exception as error:  # an oracle that cannot judge is a fault as well
            outcome = Outcome(False, f"harness {type(error).__name__}", traceback.format_exc()[-800:])
        _append(results, number, outcome, _cpu() - before)


def _cpu() -> float:
    """Processor seconds of this process and of those that it waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _write_to(file: Path) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)


def _append(results: Path, number: int, outcome: Outcome, cpu: float = 0.0) -> None:
    with results.open("a") as file:
        file.write(json.dumps({"number": number, **outcome._asdict(), "cpu": round(cpu, 3)}) + "\n")


def shuffled(items: Iterable[T]) -> list[T]:
    """A list in an order that is always the same, so that its beginning is a fair draw of it."""
    listed = list(items)
    return [listed[i] for i in np.random.default_rng(0).permutation(len(listed)).tolist()]


def attacks() -> Iterator[Attack]:
    """All of them, in the order of the table."""
    for name in MODULES:
        yield from import_module(f"tests.attack.{name}").ATTACKS


MODULES = (
    "bad_options",
    "bad_files",
    "disguised",
    "mutated_pictures",
    "bombs",
    "corrupted",
    "kills",
    "forged",
    "pickled",
    "traversal",
    "pages",
    "same_bytes",
)


def table(rows: list[tuple[Attack, list[dict[str, Any]]]]) -> str:
    """Tried and held by attack, and what else came, as Markdown."""
    lines = ["| attack | tried | held | what must hold | what did not |", "|---|---:|---:|---|---|"]
    for attack, results in rows:
        bad = [one["what"] for one in results if not one["held"]]
        counts = ", ".join(f"{bad.count(what):,} {what}" for what in sorted(set(bad), key=lambda w: -bad.count(w))[:4])
        held = len(results) - len(bad)
        lines.append(f"| {attack.name} | {len(results):,} | {held:,} | {attack.says} | {counts or 'nothing'} |")
    return "\n".join(lines)
