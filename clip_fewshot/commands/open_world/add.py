"""A class of its name alone, or of pictures at hand: `clip-fewshot open-world add store/ axolotl`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import pictures_argument
from clip_fewshot.commands.open_world.shared import StoreOptions, ingest, open_store, print_applied

DESCRIPTION = (
    "Add a class by its name, where the classifier reads names (text-prior, zero-shot). Answers say that the detector "
    "cannot vouch for it until it has pictures: give them here, or name a group of the review page so."
)
EXAMPLES = ("store/ axolotl", "store/ axolotl photos/axolotl/")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    name: str = field(metadata={"positional": True, "metavar": "NAME", "help": "name of the class"})
    pictures: tuple[Path, ...] = pictures_argument(default=())


def main(options: Options) -> int:
    pictures = opening.open_pictures(options.pictures) if options.pictures else None
    with open_store(options.store, options) as store:
        if pictures is not None:
            ingest(store, pictures)
        done = store.add_class(options.name, pictures.digests if pictures is not None else ())
        print_applied(options, done, store.world.model.label_space_.names)
    return opening.exit_code(pictures) if pictures is not None else 0
