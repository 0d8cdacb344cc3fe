"""A store of pictures, week by week: `python -m experiments.open_world COMMAND STORE ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.open_world import deciding, feeding, looking
from experiments.options import run

PROG = "python -m experiments.open_world"


class Command(NamedTuple):
    """What a first word stands for."""

    main: Callable[[Any], int]
    options: type[Any]
    description: str


COMMANDS = {
    "init": Command(feeding.init, feeding.InitOptions, "Make a store around a saved open-world model."),
    "ingest": Command(
        feeding.ingest,
        feeding.IngestOptions,
        "Judge pictures and keep them. Each is stored once; the same command goes on with a run that was stopped.",
    ),
    "status": Command(looking.status, looking.StatusOptions, "Say what is there; nothing is computed."),
    "discover": Command(
        looking.discover, looking.DiscoverOptions, "Group the unknown pictures and suggest a name for each group."
    ),
    "review": Command(
        deciding.review,
        deciding.ReviewOptions,
        "Write a page on which to name, merge, split, move and reject; it saves review.json.",
    ),
    "apply": Command(deciding.apply, deciding.ApplyOptions, "Carry out a saved review, all of it or nothing."),
    "predict": Command(
        looking.predict, looking.PredictOptions, "Say what the newest classifier makes of pictures; nothing is stored."
    ),
    "undo": Command(deciding.undo, deciding.UndoOptions, "Take the last decision back, to the last bit."),
    "watch": Command(
        feeding.watch,
        feeding.WatchOptions,
        "Look at the pictures that came since the last time; the exit code is 5 when a new category is arriving.",
    ),
}


def command(argv: Sequence[str] | None = None) -> int:
    """Run what the first word names."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] in (["-h"], ["--help"]):
        print(_help())
        return 0
    if not words or words[0] not in COMMANDS:
        got = f"{words[0]!r}, expected" if words else "expected a command:"
        print(f"{PROG}: error: {got} one of {', '.join(COMMANDS)} (--help says what they do)", file=sys.stderr)
        return 2
    chosen = COMMANDS[words[0]]
    return run(chosen.main, chosen.options, f"{PROG} {words[0]}", chosen.description, words[1:])


def _help() -> str:
    lines = [f"  {name:10}{chosen.description}" for name, chosen in COMMANDS.items()]
    ways = f"usage: {PROG} COMMAND STORE ...\n\n{__doc__}\n"
    return "\n".join([ways, *lines, f"\n{PROG} COMMAND --help lists the options of one."])
