"""A watch over a store: quiet while the known arrives, an alarm when something new does, and nothing lost between."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.stream import StreamRanks, Watch
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.open_world.store.schema import WATCHING
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.open_world.store.watching import WATCH_FILE, _read, watch
from clip_fewshot.runtime.files import seal, write_json


def some(pictures: ImageDataset, count: int, start: int = 0) -> ImageDataset:
    return pictures.subset(np.arange(start, start + count))


def test_it_is_the_watch_of_the_library_on_the_embeddings(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 60))
    seen = watch(store, alpha=0.05)
    rejector, pictures = store.world.rejector_, some(strange, 60)
    assert rejector is not None
    features = store.world.look(pictures).frozen
    held_out = Calibrated(rejector.chosen.factory(rejector.texts), "split").fit(*store.world.reference_).held_out()
    ranks, twin = StreamRanks(held_out.scores), Watch(0.05)
    for score in held_out.detector.score_samples(features):
        twin.update(ranks.update(float(score)))
    assert seen.capital == pytest.approx(twin.capital_)
    assert (seen.looked_at, seen.pictures, seen.alpha) == (60, 60, 0.05)
    if twin.alarm_ is None:
        assert (seen.since, seen.raised_at, seen.fresh) == (None, None, False)
    else:
        assert seen.since == pictures.names[twin.alarm_.since - 1]
        assert seen.raised_at == pictures.names[twin.alarm_.picture - 1]
        assert seen.fresh


def test_in_pieces_it_sees_what_it_sees_at_once(store: Store, strange: ImageDataset, familiar: ImageDataset) -> None:
    store.ingest(some(familiar, 30))
    pieces = [watch(store)]
    for start in (0, 10, 25):
        store.ingest(some(strange, 40, start))
        pieces.append(watch(store))
    assert [piece.pictures for piece in pieces] == [30, 70, 80, 95]
    store.database.run("DELETE FROM watch")  # a state that is lost
    assert watch(store).capital == pieces[-1].capital
    assert watch(store).looked_at == 0


def test_known_pictures_raise_no_alarm(store: Store, familiar: ImageDataset) -> None:
    mixed = np.random.default_rng(0).permutation(len(familiar))  # as they lie they go by writer, which is a change
    store.ingest(familiar.subset(mixed[:80]))
    assert watch(store).raised_at is None


def test_an_alarm_stays_until_a_naming_or_a_new_beginning(store: Store, strange: ImageDataset) -> None:
    pictures = some(strange, 60)
    store.ingest(pictures)
    seen = watch(store, alpha=0.99)  # a tiny backbone tells little
    assert seen.raised_at is not None
    assert seen.fresh
    again = watch(store)
    assert (again.raised_at, again.fresh, again.looked_at) == (seen.raised_at, False, 0)
    assert watch(store, restart=True).raised_at is None
    store.name(store.unknown().pictures.digests[:12], "something")
    assert watch(store).begun_anew
    assert not watch(store).begun_anew


def test_what_was_named_is_not_fed(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 40))
    named = store.unknown().pictures.digests[:3]
    store.name(named, "something")
    assert watch(store).looked_at == 37


def test_another_alpha_and_a_damaged_state_are_refused(store: Store) -> None:
    watch(store, alpha=0.05)
    with pytest.raises(UsageError, match="that of the watch that is on"):
        watch(store, alpha=0.01)
    assert watch(store, alpha=0.01, restart=True).alpha == 0.01
    for change in ("watch SET seen = seen + 1", "watched SET scores = zeroblob(8)"):
        store.database.run("SAVEPOINT sound")
        store.database.run(f"UPDATE {change}")
        with pytest.raises(ArtifactError, match=change.split()[0]):
            watch(store)
        store.database.run("ROLLBACK TO sound")
        store.database.run("RELEASE sound")


def of_before(store: Store) -> Path:
    """The state of the watch in a file beside the store, as an earlier release wrote it."""
    eye = _read(store)
    assert eye is not None
    parts = {"ranks": json.loads(eye.ranks.to_json()), "watch": json.loads(eye.watch.to_json())}
    about = {"schema": 1, "known": eye.known, "begun": eye.begun, "after": eye.after}
    write_json(store.folder / WATCH_FILE, seal(about | parts))
    for table in WATCHING:
        store.database.run(f"DELETE FROM {table}")
    return store.folder / WATCH_FILE


def test_the_file_of_an_earlier_release_is_taken_over_once(
    store: Store, strange: ImageDataset, familiar: ImageDataset
) -> None:
    store.ingest(some(familiar, 20))
    watch(store)
    path = of_before(store)
    store.ingest(some(strange, 20))
    seen = watch(store)
    assert (seen.looked_at, seen.pictures, path.exists()) == (20, 40, False)
    assert watch(store)._replace(looked_at=20, latest=seen.latest) == seen
    store.database.run("DELETE FROM watch")
    assert watch(store).capital == seen.capital
    store.check()


def test_a_damaged_file_of_before_is_refused(store: Store) -> None:
    watch(store)
    path = of_before(store)
    record = json.loads(path.read_text())
    for wrong in ({}, [], record | {"schema": 2}, record | {"ranks": {}}, record | {"after": "x"}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ArtifactError):
            watch(store)


def test_another_camera_is_no_new_category(store: Store, familiar: ImageDataset) -> None:
    mixed = np.random.default_rng(0).permutation(len(familiar))
    store.ingest(familiar.subset(mixed[:60]))
    newest = store.newest()
    assert store.find_shift().verdict() == "same"
    dark = [familiar.open(int(i)).point(lambda value: value // 2 + 100) for i in mixed[60:160]]
    store.ingest(dark)
    assert store.find_shift(newest).verdict() != "same"
    assert store.find_shift(newest).pictures == store.newest() - newest
    seen = watch(store)
    assert seen.raised_at is not None
    assert seen.shift is not None
    assert seen.shift.verdict() != "same"
    assert not seen.known_alone()
    assert store.find_shift(store.newest()).p_value == 1.0


def test_an_alarm_that_stands_hides_no_camera(store: Store, strange: ImageDataset, familiar: ImageDataset) -> None:
    store.ingest(some(strange, 60))
    assert watch(store, alpha=0.99).raised_at is not None
    store.ingest([familiar.open(i).point(lambda value: value // 2 + 100) for i in range(100)])
    later = watch(store)
    assert (later.fresh, later.latest.verdict()) == (False, store.find_shift(60).verdict())
    assert later.latest.verdict() != "same"
    assert watch(store).latest.pictures == 0


def test_known_pictures_that_raise_an_alarm_are_told_from_new_ones(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 60))
    seen = watch(store, alpha=0.99)
    assert (seen.since, seen.raised_at) != (None, None)
    began, raised = (strange.names.index(name) for name in (seen.since, seen.raised_at))
    assert seen.stretch == raised - began + 1
    called = store.world.predict(strange.subset(np.arange(began, raised + 1)))
    assert seen.unknown == sum(answer.label is None for answer in called)
    same = seen.latest._replace(p_value=1.0, undone=0.0)
    for unknown, moved, alone in ((9, False, True), (10, False, False), (0, True, False)):
        shift = same._replace(p_value=0.001, ordinary=0.8) if moved else same
        assert seen._replace(stretch=40, unknown=unknown, shift=shift).known_alone() == alone
