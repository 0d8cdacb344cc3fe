"""Make a store: `clip-fewshot open-world init store/ runs/digits-mini/model`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.imports import import_quickly
from clip_fewshot.commands.open_world.shared import StoreOptions, print_answer
from clip_fewshot.data.names import escape, number
from clip_fewshot.errors import UsageError

DESCRIPTION = "Make a store around a saved open-world model."
EXAMPLES = ("store/ runs/digits-mini/model", "store/ runs/photos-ViT-B-32/model --model my_weights.pt")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    saved: Path = field(
        metadata={"positional": True, "metavar": "MODEL", "help": "a saved open-world model, such as runs/first/model"}
    )


def main(options: Options) -> int:
    with import_quickly():
        from clip_fewshot.open_world.store.session import check_new_store
        from clip_fewshot.open_world.store.store import Store

    check_new_store(options.store)
    world = opening.open_saved(options.saved, options.model, options.device, options.trust)
    if world.rejector_ is None:
        fix = 'save one that can say "unknown", as few-shot does'
        raise UsageError(expected="a model with a detector", got="one without", fix=fix, where=str(options.saved))
    opening.warn_if_blind(world)
    names = world.model.label_space_.names
    with Store.create(options.store, world) as store:
        record = {"store": store.id, "revision": store.revision, "classes": list(names), "alpha": world.alpha_}
    text = f"store {escape(options.store)} with {number(len(names), 'known class', 'known classes')}"
    print_answer(options, record, text)
    return 0
