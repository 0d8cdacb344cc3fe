"""What the commands over a store share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clip_fewshot as cf
from clip_fewshot.config import BUILTIN_DATA
from experiments import opening

SOME_SKIPPED = 3
PICTURES = {"positional": True, "metavar": "PICTURES", "help": "pictures, or folders that hold some"}


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    store: Path = field(metadata={"positional": True, "metavar": "STORE", "help": "folder of the store"})
    json: bool = cf.option(False, "print JSON")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(StoreOptions):
    model: str | None = cf.option(None, "the backbone, if its saved name cannot be loaded")
    device: str = cf.option("auto", "where to compute, together with --model", choices=("auto", "cpu", "cuda", "mps"))


@contextmanager
def opened(options: StoreOptions) -> Iterator[cf.Store]:
    """The store, closed afterwards."""
    backbone = None
    if isinstance(options, ModelOptions) and options.model is not None:
        backbone = cf.load_backbone(options.model, device=options.device)
    with cf.Store.open(options.store, backbone) as store:
        yield store


def read(places: tuple[Path, ...]) -> cf.ImageDataset:
    """The pictures, or those of a data set in the package; what cannot be read is listed on standard error."""
    names = {str(place) for place in places}
    if names & set(BUILTIN_DATA):
        return cf.join([opening.dataset(name) for name in sorted(names)])
    pictures = cf.read_images(places)
    for path, reason, detail in pictures.skipped:
        print(f"skipped {cf.shown(path)}: [{reason}] {cf.shown(detail)}", file=sys.stderr)
    return pictures


def code(pictures: cf.ImageDataset) -> int:
    """The exit code of a command that has done what it could."""
    return SOME_SKIPPED if pictures.skipped else 0


def tell(options: StoreOptions, record: Mapping[str, Any], text: str) -> None:
    """The answer, for machines or for people."""
    print(json.dumps({"schema": 1, **record}, indent=1) if options.json else text)


def number(n: int, noun: str, plural: str | None = None) -> str:
    """1 picture, 1,797 pictures."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def next_step(options: StoreOptions, sentence: str) -> None:
    """What to do now, on standard error."""
    if not options.json:
        print(sentence, file=sys.stderr)
