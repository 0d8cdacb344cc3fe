"""Take back what predict --sort-into copied: `clip-fewshot unsort sorted/`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.cli.shared_options import CommandOptions

DESCRIPTION = (
    "Remove the copies and links that predict --sort-into has made. What you changed, moved or added since stays, and "
    "so does a copy whose original is no longer where it was: no picture is lost."
)
EXAMPLES = ("sorted/", "sorted/ --json")


@dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    folder: Path = field(metadata={"positional": True, "metavar": "FOLDER", "help": "what --sort-into has made"})


def main(options: Options) -> int:
    from clip_fewshot.data.names import escape, number
    from clip_fewshot.protocol.sort_pictures import remove_copies

    removed, left = remove_copies(options.folder)
    stays = [str(path) for path in left]
    text = f"{number(removed, 'copy', 'copies')} taken back"
    text += f"; left in {escape(options.folder)}: {number(len(left), 'file')}" if left else ""
    print(json.dumps({"schema": 1, "taken_back": removed, "stays": stays}, indent=1) if options.json else text)
    return 0
