"""What the newest classifier makes of pictures: `clip-fewshot open-world predict store/ photos/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_fewshot.commands.cli.answering import AnsweringOptions, answer
from clip_fewshot.commands.open_world.shared import StoreOptions, open_store

if TYPE_CHECKING:
    from clip_fewshot.open_world.classifier import OpenWorldClassifier

DESCRIPTION = "What the newest classifier makes of pictures, and the classes it cannot rule out; nothing is stored."
EXAMPLES = ("store/ new_pictures/ --together --out answers.csv", "store/ new_pictures/ --sort-into sorted/ --links")


@dataclass(frozen=True, kw_only=True)
class Options(AnsweringOptions, StoreOptions):
    pass


def main(options: Options) -> int:
    def load() -> OpenWorldClassifier:
        with open_store(options.store, options) as store:
            return store.world

    return answer(options, load)
