"""Take the last decision back: `clip-fewshot open-world undo store/`."""

from __future__ import annotations

from dataclasses import dataclass

from clip_fewshot.commands.open_world.shared import StoreOptions, open_session, print_answer
from clip_fewshot.data.names import escape, number

DESCRIPTION = "Take the last decision back, to the last bit."
EXAMPLES = ("store/", "store/ --json")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    pass


def main(options: Options) -> int:
    from clip_fewshot.open_world.store.queries import read_status
    from clip_fewshot.open_world.store.undoing import undo

    with open_session(options.store, options) as session:
        before, revision = read_status(session.database).names, undo(session)
        after = read_status(session.database).names
    gone = [name for name in before if name not in after]
    text = f"revision {revision}: {number(len(after), 'class', 'classes')} as before"
    text += f"; {', '.join(map(escape, gone))} taken back" if gone else ""
    print_answer(options, {"revision": revision, "classes": list(after), "taken_back": gone}, text)
    return 0
