"""Pictures of a store, for those who want to look at them or to learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clip_fewshot.data.collect import join
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import ImageError, read_regular
from clip_fewshot.data.naming import first_of, shown
from clip_fewshot.data.squares import decode_squares
from clip_fewshot.errors import DataError
from clip_fewshot.runtime.files import sha256_bytes
from clip_fewshot.store import rows
from clip_fewshot.store.database import Database
from clip_fewshot.store.rows import Held
from clip_fewshot.types import LabelSpace


def as_dataset(held: Sequence[Held]) -> ImageDataset:
    """Pictures by digest and last known place; whether the files are still there is not asked."""
    return ImageDataset(
        name="store",
        images=tuple(Path(one.place or one.name) for one in held),
        names=tuple(one.name for one in held),
        labels=None,
        label_space=LabelSpace(()),
        captions=None,
        partition=("",) * len(held),
        digests=tuple(one.digest for one in held),
    )


def pictures_of(database: Database, held: Sequence[Held]) -> ImageDataset:
    """Pictures that can be opened, in the order of ``held``: the squares that were kept, or the files.

    Raises:
        DataError: neither is there.
    """
    squares = rows.blobs(database, "square", [one.seq for one in held])
    parts, lost = [], []
    for one in held:
        if one.seq in squares:
            parts.append(replace(decode_squares([squares[one.seq]], [one.name]), digests=(one.digest,)))
        elif one.place is not None and is_there(one):
            parts.append(as_dataset([one]))
        else:
            lost.append(shown(one.place or one.name))
    if lost:
        fix = "relink() the folder that holds them now"
        raise DataError("files of all pictures to learn from", f"{len(lost)} not found{first_of(lost)}\n", fix, "store")
    return join(parts) if parts else as_dataset([])


def is_there(one: Held) -> bool:
    """Whether its file lies where it was last seen, unchanged."""
    try:
        return one.place is not None and sha256_bytes(read_regular(one.place)) == one.digest
    except ImageError:
        return False
