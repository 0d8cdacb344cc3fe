"""An eye on what comes into a store: an alarm when a new category begins to arrive."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.conformal.calibration import Calibrated, HeldOut
from clip_fewshot.conformal.shift import UNMOVED, Shift
from clip_fewshot.conformal.stream import StreamRanks, Watch
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.novelty import KNNDetector
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store import rows, saved_classifiers
from clip_fewshot.open_world.store.schema import WATCHING
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.runtime.files import check_seal, hash_bytes, hold_file, read_json
from clip_fewshot.types import FloatArray

WATCH_SCHEMA = 1  # of the file of before
WATCH_FILE, WATCH_LOCK = "watch.json", ".watch.lock"
WATCHED_AT_A_TIME = 4096  # pictures between two writes: what a kill makes us look at again, to the same end
WATCH_ALPHA = 0.01
FEW_UNKNOWN = 0.25  # of the pictures that raise an alarm; 0.07 to 0.14 of known classes in order, 0.3 to 1 of new ones


class Watched(NamedTuple):
    """Where a watch stands.

    Attributes:
        looked_at: pictures in this call. pictures: since the watch began.
        capital: of the bets, which began with 1; 1 / alpha raises the alarm.
        alpha: share of streams of known pictures that ever raise one.
        since: the picture with which the new category most likely began; None without an alarm.
        raised_at: the picture that raised the alarm, or None.
        fresh: whether this call raised it. begun_anew: whether the known classes are others than at the call before.
        shift: with an alarm, whether what came from ``since`` on is of another camera and no new category.
        stretch: pictures from ``since`` to ``raised_at``; ``unknown`` of these are called so.
        latest: whether what this call looked at is of another camera: an alarm that stands hides none.
    """

    looked_at: int
    pictures: int
    capital: float
    alpha: float
    since: str | None
    raised_at: str | None
    fresh: bool
    begun_anew: bool
    shift: Shift | None
    stretch: int
    unknown: int
    latest: Shift

    def known_alone(self) -> bool:
        """Whether it is rather one known class that came by itself, as from a folder that is sorted by class."""
        moved = self.shift is not None and self.shift.verdict() != UNMOVED
        return self.stretch > 0 and not moved and self.unknown < FEW_UNKNOWN * self.stretch


class _Eye(NamedTuple):
    """All that is kept: the known pictures, by digest; the store's picture before the first, and the last one."""

    known: str
    begun: int
    after: int
    ranks: StreamRanks
    watch: Watch


def watch(store: Store, alpha: float | None = None, restart: bool = False) -> Watched:
    """Look at the pictures that came into ``store`` since the last call, in the order in which they came.

    Each is ranked by how strange its embedding is to the known pictures: half of them teach the detector that was
    chosen for the model, among the other half it is ranked. That is exact, see
    :class:`clip_fewshot.conformal.stream.StreamRanks`; the p-values of answers would not do. The stream is held against
    the known pictures as they were drawn: a known class that comes more often than it was shown, another writer or
    another camera is a change, too, and so is a folder that is sorted by class (docs/figures/shift.md). Measured on
    digits that go on as they were shown, over 60 support sets of 6 shots of 7 classes with LOF: 0.5 % of streams raise
    an alarm at an alpha of 1 %, 1.2 % at 5 %.

    A naming changes what is known, and the watch begins again with the next picture. Its state lies in the store, and
    of the scores only new ones are written; a kill loses nothing.

    Args:
        alpha: None: that of the watch that is on, or 0.01.
        restart: forget an alarm, and begin with the next picture.

    Raises:
        UsageError: another ``alpha`` than that of the watch that is on, or too few known pictures.
        ArtifactError: a damaged state, or a damaged file of an earlier release, which is otherwise taken over.
    """
    with hold_file(store.folder / WATCH_LOCK):
        before, world = _read(store), store.world
        known, held_out = _digest(world), _held_out(world)
        eye = before
        if eye is None or eye.known != known or restart:
            eye = _begun(known, held_out, alpha, before)
            _write(store, eye, held_out.scores, all_scores=True)
        elif alpha not in (None, eye.watch.alpha):
            fix = "leave it out, or begin again with restart"
            raise UsageError(
                expected=f"alpha {eye.watch.alpha:g}, that of the watch that is on",
                got=f"{alpha:g}",
                fix=fix,
                where="watch",
            )
        was, start, after = eye.watch.alarm_, eye.ranks.t_, eye.after
        eye = _look(store, held_out, eye)
        about = _describe(store, eye) | {"latest": store.find_shift(after)}
    return Watched(
        looked_at=eye.ranks.t_ - start,
        pictures=eye.ranks.t_,
        capital=eye.watch.capital_,
        alpha=eye.watch.alpha,
        fresh=eye.watch.alarm_ is not None and was is None,
        begun_anew=before is not None and before.known != known,
        **about,
    )


def _describe(store: Store, eye: _Eye) -> dict[str, Any]:
    """What is known of the alarm, if there is one."""
    alarm = eye.watch.alarm_
    if alarm is None:
        return {"since": None, "raised_at": None, "shift": None, "stretch": 0, "unknown": 0}
    (first, since), (last, raised_at) = (_find(store, eye, place) for place in (alarm.since, alarm.picture))
    asked = "SELECT COUNT(*) FROM image WHERE seq BETWEEN ? AND ? AND state = 'unknown'"
    ((unknown,),) = store.database.rows(asked, (first, last))
    about = {"since": since, "raised_at": raised_at, "shift": store.find_shift(first - 1)}
    return about | {"stretch": alarm.picture - alarm.since + 1, "unknown": unknown}


def _begun(known: str, held_out: HeldOut, alpha: float | None, before: _Eye | None) -> _Eye:
    level = alpha if alpha is not None else WATCH_ALPHA if before is None else before.watch.alpha
    after = 0 if before is None else before.after
    return _Eye(known, after, after, StreamRanks(held_out.scores), Watch(level))


def _look(store: Store, held_out: HeldOut, eye: _Eye) -> _Eye:
    """Feed what came, and write down how far; an alarm ends the bets, not the looking."""
    while True:
        seqs = [
            seq
            for (seq,) in store.database.rows(
                f"SELECT seq {rows.WITHOUT_A_NAME} LIMIT {WATCHED_AT_A_TIME}", (eye.after,)
            )
        ]
        if not seqs:
            return eye
        encoder = saved_classifiers.find_current(store.database).encoder
        features = rows.read_embeddings(store.database, seqs, encoder, str(store.database.path))
        scores = held_out.detector.score_samples(features)
        for score in scores:
            eye.watch.update(eye.ranks.update(float(score)))
        eye = eye._replace(after=seqs[-1])
        _write(store, eye, scores)


def _held_out(world: OpenWorldClassifier) -> HeldOut:
    rejector = world.rejector_
    make = KNNDetector if rejector is None else rejector.chosen.factory(rejector.texts)
    return Calibrated(make, "split").fit(*world.reference_).held_out()


def _digest(world: OpenWorldClassifier) -> str:
    """Of what pictures are ranked among."""
    features, labels = world.reference_
    chosen = None if world.rejector_ is None else world.rejector_.chosen
    detector = None if chosen is None else str(chosen) + ", log-odds" * chosen.in_log_odds
    about = json.dumps([detector, list(features.shape), world.model.backbone.digest]).encode()
    return hash_bytes(about + features.tobytes() + np.asarray(labels, np.int64).tobytes())


def _find(store: Store, eye: _Eye, place: int) -> tuple[int, str]:
    """Number and name of the picture that was number ``place``, from 1, in the stream."""
    asked = f"SELECT seq, name {rows.WITHOUT_A_NAME} LIMIT 1 OFFSET ?"
    ((seq, name),) = store.database.rows(asked, (eye.begun, place - 1))
    return seq, name


def _write(store: Store, eye: _Eye, scores: FloatArray, all_scores: bool = False) -> None:
    """Where it stands, and the ``scores`` that were added since the last time; ``all_scores``: all there are."""
    database = store.database
    with database.transaction():
        database.run("DELETE FROM watch")
        database.insert("watch", eye.known, eye.begun, eye.after, eye.ranks.t_, eye.watch.to_json())
        if all_scores:
            database.run("DELETE FROM watched")
        database.insert("watched", database.next_number("watched", "part"), np.asarray(scores, "<f8").tobytes())


def _read(store: Store) -> _Eye | None:
    database = store.database
    database.check_rows(WATCHING)
    for known, begun, last, seen, bets, _ in database.rows("SELECT * FROM watch"):
        parts = database.rows("SELECT scores FROM watched ORDER BY part")
        ranks = StreamRanks(np.concatenate([np.frombuffer(part, "<f8") for (part,) in parts]))
        ranks.t_ = seen
        return _Eye(known, begun, last, ranks, Watch.from_json(bets))
    return _take_over(store)


def _take_over(store: Store) -> _Eye | None:
    """The state that an earlier release wrote beside the store, into its tables; the file goes."""
    path = store.folder / WATCH_FILE
    if not os.path.exists(path):
        return None
    eye = _read_file(path)
    _write(store, eye, np.array(eye.ranks.scores_), all_scores=True)
    path.unlink()
    return eye


def _read_file(path: Path) -> _Eye:
    record = check_seal(read_json(path), str(path))
    try:
        if record["schema"] != WATCH_SCHEMA:
            raise ArtifactError(
                expected=f"schema {WATCH_SCHEMA}",
                got=f"schema {record['schema']}",
                fix="delete it to begin again",
                where=str(path),
            )
        ranks, eye = StreamRanks.from_json(json.dumps(record["ranks"])), Watch.from_json(json.dumps(record["watch"]))
        return _Eye(str(record["known"]), int(record["begun"]), int(record["after"]), ranks, eye)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            expected="the state of a watch", got=repr(error), fix="delete it to begin again", where=str(path)
        ) from error
