"""Is a store as it was written: `clip-fewshot open-world check store/`."""

from __future__ import annotations

from dataclasses import dataclass

from clip_fewshot.commands.open_world.shared import StoreOptions, open_store, print_answer
from clip_fewshot.data.names import number

DESCRIPTION = "Read every picture's row, every decision and every model against its checksum; exit code 2 on damage."
EXAMPLES = ("store/", "store/ --json")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    pass


def main(options: Options) -> int:
    with open_store(options.store, options) as store:
        store.check()
        now = store.status()
    pictures = sum(now.states.values())
    text = f"sound: {number(pictures, 'picture')}, {number(now.revision, 'decision')}"
    print_answer(options, {"sound": True, "pictures": pictures, "revision": now.revision}, text)
    return 0
