"""Pictures of a store, to look at or to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import escape, list_first
from clip_fewshot.data.picture_files import read_regular
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.data.squares import decode_squares
from clip_fewshot.errors import DataError
from clip_fewshot.open_world.answers import Answer
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store import rows, saved_classifiers
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.rows import StoredPicture, Verdict
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.types import LabelSpace


def build_dataset(held: Sequence[StoredPicture]) -> ImageDataset:
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


def open_pictures(database: Database, held: Sequence[StoredPicture]) -> ImageDataset:
    """Pictures that can be opened, in the order of ``held``: the squares that were kept, or the files.

    Raises:
        DataError: neither is there.
    """
    squares = rows.read_blobs(database, "square", [one.seq for one in held])
    parts, lost = [], []
    for one in held:
        if one.seq in squares:
            parts.append(replace(decode_squares([squares[one.seq]], [one.name]), digests=(one.digest,)))
        elif one.place is not None and is_there(one):
            parts.append(build_dataset([one]))
        else:
            lost.append(escape(one.place or one.name))
    if lost:
        fix = "relink() the folder that holds them now"
        raise DataError(
            expected="files of all pictures to learn from",
            got=f"{len(lost)} not found{list_first(lost)}\n",
            fix=fix,
            where="store",
        )
    return join_images(parts) if parts else build_dataset([])


def is_there(one: StoredPicture) -> bool:
    """Whether its file lies where it was last seen, unchanged."""
    try:
        return one.place is not None and hash_bytes(read_regular(one.place)) == one.digest
    except ImageError:
        return False


FEATURES_AT_A_TIME = 4096  # pictures judged at a time from their features
SQUARES_AT_A_TIME = 256  # and from their squares


def judge_again(
    database: Database, world: OpenWorldClassifier, held: Sequence[StoredPicture], number: int
) -> dict[int, Verdict]:
    """What ``world``, the classifier of revision ``number``, says of them; of those it can see, without any file.

    A classifier with tuned layers sees those whose squares were kept.
    """
    verdicts: dict[int, Verdict] = {}
    size = FEATURES_AT_A_TIME if world.from_features else SQUARES_AT_A_TIME
    for start in range(0, len(held), size):
        part = held[start : start + size]
        if world.from_features:
            encoder = saved_classifiers.find_current(database).encoder
            features = rows.read_embeddings(database, [one.seq for one in part], encoder, str(database.path))
            answers = world.judge(world.look_at_features(features), 1)
        else:
            kept = rows.read_blobs(database, "square", [one.seq for one in part])
            part = [one for one in part if one.seq in kept]
            answers = world.judge(world.look(open_pictures(database, part)), 1) if part else []
        verdicts |= {one.seq: build_verdict(answer, number) for one, answer in zip(part, answers, strict=True)}
    return verdicts


def build_verdict(answer: Answer, state: int) -> Verdict:
    """An answer of the classifier of ``state``."""
    return Verdict("unknown" if answer.label is None else "known", answer.label, answer.p_value, answer.score, state)
