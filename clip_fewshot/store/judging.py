"""Pictures of a store judged by another classifier than the one that saw them come."""

from __future__ import annotations

from collections.abc import Sequence

from clip_fewshot.answers import Answer
from clip_fewshot.openworld import OpenWorldClassifier
from clip_fewshot.store import models, rows
from clip_fewshot.store.database import Database
from clip_fewshot.store.material import pictures_of
from clip_fewshot.store.rows import Held, Verdict

SOME = 4096  # pictures judged at a time from their features
FEW = 256  # and from their squares


def judged_again(
    database: Database, world: OpenWorldClassifier, held: Sequence[Held], number: int
) -> dict[int, Verdict]:
    """What ``world``, the classifier of revision ``number``, says of them; of those it can see, without any file.

    A classifier with tuned layers sees those whose squares were kept.
    """
    verdicts: dict[int, Verdict] = {}
    size = SOME if world.from_features else FEW
    for start in range(0, len(held), size):
        part = held[start : start + size]
        if world.from_features:
            encoder = models.current(database).encoder
            features = rows.embeddings(database, [one.seq for one in part], encoder, str(database.path))
            answers = world.judge(world.seen(features), 1)
        else:
            kept = rows.blobs(database, "square", [one.seq for one in part])
            part = [one for one in part if one.seq in kept]
            answers = world.judge(world.look(pictures_of(database, part)), 1) if part else []
        verdicts |= {one.seq: verdict_of(answer, number) for one, answer in zip(part, answers, strict=True)}
    return verdicts


def verdict_of(answer: Answer, state: int) -> Verdict:
    """An answer of the classifier of ``state``."""
    return Verdict("unknown" if answer.label is None else "known", answer.label, answer.p_value, answer.score, state)
