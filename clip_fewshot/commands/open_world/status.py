"""What a store holds: `clip-fewshot open-world status store/ --history`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.cli.shared_options import CommandOptions
from clip_fewshot.commands.open_world.shared import STORE, open_session, print_answer
from clip_fewshot.config import option
from clip_fewshot.data.names import escape, number

DESCRIPTION = "Say what is there; nothing is computed."
EXAMPLES = ("store/", "store/ --history --json")


@dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    store: Path = field(metadata=STORE)
    history: bool = option(False, "list every decision", group="output")


def main(options: Options) -> int:
    from clip_fewshot.open_world.store.queries import read_history, read_status
    from clip_fewshot.report import tables
    from clip_fewshot.runtime.units import format_moment

    with open_session(options.store) as session:
        now, identity = read_status(session.database), session.id
        history = read_history(session.database) if options.history else []
    record = now._asdict() | {"store": identity, "states": dict(now.states), "classes": dict(now.classes)}
    counts = ", ".join(f"{n:,} {state}" for state, n in now.states.items())
    pictures = number(sum(now.states.values()), "picture")
    lines = [f"revision {now.revision}, backbone {escape(now.backbone)}; {pictures}: {counts}", ""]
    lines.append(tables.format_plain([["class", "pictures"], *([n, f"{now.classes.get(n, 0):,}"] for n in now.names)]))
    if options.history:
        record["history"] = history
        rows = [
            [format_moment(event["at"]), str(event["revision"]), event["kind"], event["class"] or ""]
            for event in history
        ]
        lines += ["", tables.format_plain([["when", "revision", "what", "class"], *rows])]
    print_answer(options, record, "\n".join(lines))
    return 0
