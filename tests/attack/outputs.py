"""Every output of every command where something stands that this library did not write: left as it is, whatever it is.

The twins: the same output where nothing stands, and once more over what the first wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.attack import lines, scene
from tests.attack.apart import command, shown
from tests.attack.harness import Attack, Outcome, shuffled

MINE = b"the only copy of a thesis\n"


class Output(NamedTuple):
    """What a command writes.

    Attributes:
        words: more words of its line, {} in the place of the target; without, it replaces the value of ``flag``.
        name: of the target. folder: whether it is one.
    """

    command: str
    flag: str
    name: str
    folder: bool


OUTPUTS = (
    Output("few_shot", "--out", "run", True),
    Output("finetune", "--out", "tuned", True),
    Output("pretrain", "--out", "scratch", True),
    Output("predict", "--grid", "answers.svg", False),
    Output("linear_probe", "--grid", "sample.svg", False),
    Output("embed", "--out", "features.parquet", False),
    Output("compare", "--out", "compared", True),
    Output("shots", "--out", "curves", True),
    Output("novelty", "--out", "measured", True),
    Output("modality_gap", "--out", "gap", True),
    Output("open_world init", "0", "shop", True),
    Output("open_world review", "--out", "page.html", False),
)
# What each folder output writes, under which the user may have a file of his own.
INSIDE = {
    "few_shot": ("report.html", "results.json", "trials"),
    "finetune": ("results.json", "model"),
    "pretrain": ("model.safetensors", "metrics.jsonl"),
    "compare": ("compare.json", "compare.svg", "compare.csv", "compare.tex"),
    "shots": ("shots.json", "shots.svg"),
    "novelty": ("novelty.json", "det.svg", "densities.svg"),
    "modality_gap": ("gap.json", "before.svg"),
    "open_world init": ("store.sqlite3", "notes.txt"),
}


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(MINE)


def _folder(path: Path) -> None:
    _file(path / "notes.txt")


def _link_to_file(path: Path) -> None:
    _file(path.parent / "elsewhere" / "thesis.txt")
    path.symlink_to(Path("elsewhere") / "thesis.txt")


def _link_to_folder(path: Path) -> None:
    _folder(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def _look_alike(path: Path) -> None:
    """A file of the right kind that somebody else wrote."""
    body = {
        ".svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        ".html": b"<!DOCTYPE html><p>mine",
        ".parquet": b"PAR1",
    }
    path.write_bytes(body.get(path.suffix, b"{}"))


class Case(NamedTuple):
    """An output, and what stands in its place."""

    output: Output
    standing: str


STANDING: dict[str, Callable[[Path], object]] = {
    "file": _file,
    "folder": _folder,
    "link to a file": _link_to_file,
    "link to a folder": _link_to_folder,
}
FREE = ("nothing", "its own")


@cache
def cases() -> list[Case]:
    """All of them, mixed."""
    found = []
    for output in OUTPUTS:
        if output.command == "embed" and find_spec("pyarrow") is None:
            continue
        more = [f"own {name}" for name in INSIDE[output.command]] if output.folder else ["look-alike", "an input"]
        found += [Case(output, standing) for standing in (*STANDING, *more, *FREE)]
    return shuffled(found)


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    case, cwd = cases()[number], lines.bench(folder)
    output, target = case.output, cwd / "place" / case.output.name
    target.parent.mkdir()
    _stand(case, target, folder)
    line = _line(folder, case, target)
    if case.standing == "its own":
        command(folder, *output.command.split(), *line, cwd=cwd)
    before = scene.tree(target.parent)
    ended = command(folder, *output.command.split(), *line, cwd=cwd)
    again = f"{output.command} {output.flag} over {case.standing}: {ended.err.strip()[-200:]}"
    if raw := ended.raw():
        return Outcome(False, raw, again)
    if case.standing == "nothing":
        done = ended.code == 0 and target.exists()
        return Outcome(done, "written" if done else "refused", again)
    if case.standing == "its own":  # written again, or refused by name of --resume: both are told in the help
        return Outcome(True, "written" if ended.code == 0 else "refused")
    if scene.tree(target.parent) != before:
        return Outcome(False, "overwritten" if ended.code == 0 else "overwritten and refused", again)
    if ended.code == 0:
        return Outcome(False, "accepted", f"{again} {shown(line)}")
    told = output.name in ended.err or os.fspath(target.parent) in ended.err
    return Outcome(told, "refused" if told else "refused for another reason", again)


def _stand(case: Case, target: Path, folder: Path) -> None:
    if case.standing in STANDING:
        STANDING[case.standing](target)
    elif case.standing.startswith("own "):
        _file(target / case.standing.removeprefix("own "))
    elif case.standing == "look-alike":
        _look_alike(target)
    elif case.standing == "an input":
        target.write_bytes(next(scene.strange(folder).glob("*/*.png")).read_bytes())


def _line(folder: Path, case: Case, target: Path) -> tuple[object, ...]:
    """The target as the output; and, where it is no folder, as an input picture too."""
    line = list(lines.lines(folder)[case.output.command])
    if case.output.flag == "0":
        line[0] = target
    elif case.output.flag in line:
        line[line.index(case.output.flag) + 1] = target
    else:
        line += [case.output.flag, target]
    if case.standing == "an input" and case.output.command == "predict":
        line.insert(2, target)
    return tuple(line)


ATTACKS = [
    Attack(
        "outputs over foreign files",
        "refused by name, the tree unchanged; fresh places and its own results are written",
        len(cases()),
        3,
        lines.prepare,
        strike,
        patience=150,
    )
]
