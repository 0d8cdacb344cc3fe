"""The commands: `clip-fewshot NAME ...`, `python -m clip_fewshot NAME ...`, each in a file of its own name.

A command's file has ``Options`` (a frozen dataclass), ``main(options) -> exit code``, ``DESCRIPTION`` and two
``EXAMPLES``; this list says what there is. What commands share stands in ``cli``. Nothing heavy is imported before a
command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import clip_fewshot
from clip_fewshot.commands.cli.run import describe_start, run

USAGE = 2
OPEN_WORLD = "open_world"
STORE_COMMANDS = {
    "init": "a store around a saved open-world model",
    "ingest": "pictures into the store, each once; a stopped run goes on",
    "status": "what is there",
    "discover": "groups among the unknown pictures, with names to choose from",
    "review": "a page on which to name, merge, split, move and reject",
    "export": "the groups as files for FiftyOne, Label Studio, CVAT or a spreadsheet",
    "apply": "carry out a saved review, or labels that such a tool has changed, all or nothing",
    "add": "a class of its name alone, or of pictures at hand",
    "predict": "what the newest classifier makes of pictures; nothing is stored",
    "undo": "take the last decision back",
    "check": "is the store as it was written? exit code 2 when it is not",
    "watch": "is something new arriving? exit code 5 when it is",
}
COMMAND_GROUPS: Mapping[str, Mapping[str, str]] = {
    "learn": {
        "few_shot": "the main job: search, refit, test, reject the unknown and group it, report",
        "finetune": "contrastive fine-tuning on captioned or labelled pictures, before and after",
        "pretrain": "a CLIP from scratch on captioned pictures",
    },
    "use": {
        "predict": "class or unknown for pictures, by a saved model",
        "export": "a model as one ONNX file, checked",
        "unsort": "take back what predict --sort-into copied",
        "zero_shot": "accuracy from class names alone; the classes of one picture",
        "retrieve": "pictures for a text, texts for a picture",
        "embed": "features of a folder or table of pictures, also on a cluster",
    },
    "open world": {OPEN_WORLD: "a store of pictures, week by week: " + ", ".join(STORE_COMMANDS)},
    "measure": {
        "audit": "copies, doubtful labels and classes that give themselves away, before anything is measured",
        "linear_probe": "compare models by a probe on frozen features",
        "compare": "every method on the same support sets, as table and plot",
        "results": "results of runs as one table: CSV, Parquet, LaTeX, Markdown",
        "shots": "the main job by shots per class, as table and plot",
        "novelty": "all detectors on one model, or the detector of a saved one",
        "discovery": "new classes among test pictures, against semi-supervised k-means",
        "modality_gap": "where pictures and texts lie in the common space",
    },
}
COMMANDS = tuple(name for group in COMMAND_GROUPS.values() for name in group)


def main(argv: Sequence[str] | None = None) -> int:
    """What `clip-fewshot` does: the command that the first word names, with dashes or underscores."""
    words, prog = list(sys.argv[1:] if argv is None else argv), describe_start()
    if words[:1] in ([], ["-h"], ["--help"]):
        print(_help(prog))
        return 0
    if words[0] == "--version":
        print(f"clip-fewshot {clip_fewshot.__version__}")
        return 0
    name = words[0].replace("-", "_")
    if name not in COMMANDS:
        return _refuse(prog, words[0], COMMANDS)
    return run_command(name, words[1:], f"{prog} {words[0]}")


def run_command(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run one command.

    Args:
        name: one of ``COMMANDS``, with underscores.
        argv: its arguments; None for those of this process.
        prog: how it was started, for messages; None to find out.
    """
    words, prog = list(sys.argv[1:] if argv is None else argv), prog or describe_start()
    if any("python:" in word for word in words) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own code; else no file of this folder is ever imported
    if name != OPEN_WORLD:
        return _run(f"clip_fewshot.commands.{name}", words, prog)
    if words[:1] in ([], ["-h"], ["--help"]):
        print(_store_help(prog))
        return 0 if words else USAGE
    if words[0].replace("-", "_") not in STORE_COMMANDS:
        return _refuse(prog, words[0], STORE_COMMANDS)
    return _run(f"clip_fewshot.commands.{OPEN_WORLD}.{words[0].replace('-', '_')}", words[1:], f"{prog} {words[0]}")


def _run(module: str, words: Sequence[str], prog: str) -> int:
    command: Any = import_module(module)
    return run(command.main, command.Options, prog, command.DESCRIPTION, words, command.EXAMPLES)


def _refuse(prog: str, word: str, known: Sequence[str] | Mapping[str, str]) -> int:
    near = get_close_matches(word.replace("-", "_"), known, 1, 0.5)
    meant = f"; did you mean {_dashed(near[0])}?" if near else ""
    names = ", ".join(map(_dashed, known))
    print(f"{prog}: error: expected one of {names}, got {word!r}{meant} (--help says what they do)", file=sys.stderr)
    return USAGE


def _help(prog: str) -> str:
    lines = [f"usage: {prog} COMMAND ...", "", "Learn from a few labelled pictures, and know what was never seen."]
    for title, group in COMMAND_GROUPS.items():
        lines += ["", f"{title}:", *_lines(group)]
    ends = f"{prog} COMMAND --help lists the options of one; {prog} --version says which release this is."
    return "\n".join([*lines, "", ends])


def _store_help(prog: str) -> str:
    head = [f"usage: {prog} COMMAND STORE ...", "", "A store of pictures, week by week.", ""]
    return "\n".join([*head, *_lines(STORE_COMMANDS), "", f"{prog} COMMAND --help lists the options of one."])


def _lines(group: Mapping[str, str]) -> list[str]:
    return [f"  {_dashed(name):14}{text}" for name, text in group.items()]


def _dashed(name: str) -> str:
    return name.replace("_", "-")
