"""What goes into a store is there afterwards, once; what was decided holds, and is taken back to the last bit."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.collect import read_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import ArtifactError, DataError, ResourceError, UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.sight import Sight
from clip_fewshot.open_world.store.ingesting import Ingested
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.store import Store
from tests.conftest import TINY
from tests.open_world.store.conftest import MakeWorld


def some(pictures: ImageDataset, count: int, start: int = 0) -> ImageDataset:
    return pictures.subset(np.arange(start, start + count))


def everything(store: Store) -> dict[str, tuple[object, ...]]:
    """All that is held of every picture."""
    digests = [row[0].hex() for row in store.database.rows("SELECT digest FROM image")]
    return {digest: (held.name, *held.verdict[:4]) for digest, held in store.held(digests).items()}


def without_name(store: Store) -> list[str]:
    """Unknown pictures first, then known ones."""
    found = [(held[1] != "unknown", digest) for digest, held in everything(store).items() if held[1] != "named"]
    return [digest for _, digest in sorted(found)]


def test_a_picture_is_stored_once_with_what_the_model_said(store: Store, strange: ImageDataset) -> None:
    pictures, told = some(strange, 40), []
    done = store.ingest(pictures, batch=16, acknowledged=told.append)
    assert [one.new for one in told] == [16, 32, 40]
    assert done == told[-1]
    assert done.known + done.unknown == done.new == 40
    assert store.ingest(pictures) == Ingested(0, 0, 0, 40)
    answers = store.world.predict(pictures)
    held = store.held(pictures.digests)
    for digest, answer in zip(pictures.digests, answers, strict=True):
        state, label, p_value, score, judged = held[digest].verdict
        assert (state, label) == (("unknown", None) if answer.label is None else ("known", answer.label))
        assert (p_value, score, judged) == pytest.approx((answer.p_value, answer.score, 0))
    status = store.status()
    assert sum(status.states.values()) == 40
    assert status.states["unknown"] == done.unknown
    assert sum(status.classes.values()) == done.known


def test_twins_in_one_call_are_one_picture(store: Store, strange: ImageDataset) -> None:
    twice = strange.subset(np.array([0, 1, 0, 1, 2]))
    assert store.ingest(twice)[::3] == (3, 2)
    assert store.ingest(some(strange, 0)) == Ingested()


def test_unknown_pictures_come_back_with_their_features_and_thumbnails(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 60))
    unknown = store.unknown()
    assert len(unknown.pictures) == store.status().states["unknown"] > 10
    again = store.world.look(strange.subset(np.array([strange.digests.index(d) for d in unknown.pictures.digests])))
    np.testing.assert_allclose(unknown.features, again.frozen, rtol=1e-4, atol=1e-5)
    assert unknown.features.dtype == np.float32
    assert (unknown.p_values <= 0.1 + 1e-9).all()
    pictures = store.thumbnails(unknown.pictures.digests)
    for data in pictures.values():
        with Image.open(BytesIO(data)) as picture:
            assert max(picture.size) <= 128
    assert store.thumbnails(["00" * 32]) == {}


def test_what_is_closed_and_opened_is_the_same(store: Store, strange: ImageDataset, tiny: Backbone) -> None:
    store.ingest(some(strange, 40))
    store.name(store.discover()[0], "axolotl")
    before, said, history = everything(store), store.world.predict(some(strange, 10, 40)), store.history()
    store.close()
    with pytest.raises(UsageError, match="an open store"):
        store.status()
    with Store.open(store.folder, tiny) as again:
        assert everything(again) == before
        assert again.world.predict(some(strange, 10, 40)) == said
        assert again.history() == history
        assert again.revision == 1
        again.check()


def test_a_group_becomes_a_class_and_the_rest_is_judged_again(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 120))
    group = store.discover()[0]
    applied = store.name(group, "axolotl")
    assert applied.revision == store.revision == 1
    assert applied.reports[0].pictures == {"axolotl": len(group)}
    assert "axolotl" in store.status().names
    assert store.status().states["named"] == len(group)
    world = store.world
    left = store.unknown()
    assert not set(left.pictures.digests) & set(group.pictures.digests)
    assert all(answer.label is None for answer in world.judge(world.look_at_features(left.features)))
    now_known = [held for held in store.held(strange.digests).values() if held.verdict.label == "axolotl"]
    assert {held.verdict.state for held in now_known} <= {"named", "known"}
    assert [event["kind"] for event in store.history()] == ["create", "name"]


def test_undo_brings_everything_back(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 120))
    states, answers = [everything(store)], [store.world.predict(some(strange, 20, 200))]
    for name in ("axolotl", "newt"):
        store.name(without_name(store)[:4], name)
        states.append(everything(store))
        answers.append(store.world.predict(some(strange, 20, 200)))
    store.reject(without_name(store)[:1])
    assert store.status().states["rejected"] == 1
    for state, said in zip(reversed(states), reversed(answers), strict=True):
        store.undo()
        assert everything(store) == state
        assert store.world.predict(some(strange, 20, 200)) == said
        if state is states[0]:
            break
    with pytest.raises(UsageError, match="none since"):
        store.undo()
    assert [event["kind"] for event in store.history()] == ["create", "name", "name", "reject", "undo", "undo", "undo"]
    assert store.revision == 6
    store.name(store.discover()[0], "axolotl")
    assert store.revision == 7


def test_pictures_that_came_after_a_naming_are_judged_by_the_model_of_before(
    store: Store, strange: ImageDataset, make_world: MakeWorld, tmp_path: Path
) -> None:
    store.ingest(some(strange, 100))
    store.name(store.discover()[0], "axolotl")
    store.ingest(some(strange, 100, 100))
    store.undo()
    with Store.create(tmp_path / "other", make_world()) as other:
        other.ingest(some(strange, 200))
        mine, theirs = everything(store), everything(other)
    assert mine.keys() == theirs.keys()
    for digest, held in mine.items():
        assert held[:3] == theirs[digest][:3]
        assert held[3:] == pytest.approx(theirs[digest][3:], rel=1e-5)


def test_named_pictures_are_in_no_test_even_after_an_undo(store: Store, strange: ImageDataset, tiny: Backbone) -> None:
    store.ingest(some(strange, 100))
    group = store.discover()[0]
    store.name(group, "axolotl")
    store.undo()
    with Store.open(store.folder, tiny) as again:
        fresh, left_out = again.world.drop_named(strange)
    assert left_out == len(group)
    assert not set(fresh.digests) & set(group.pictures.digests)


def test_assigned_pictures_join_a_class_that_is_there(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 80))
    group, names = store.discover()[0], store.status().names
    before = everything(store)
    applied = store.assign(group, names[0])
    assert applied.reports[0].refitted
    assert store.status().names == names
    assert all(held.verdict[:2] == ("named", names[0]) for held in store.held(group.pictures.digests).values())
    store.undo()
    assert everything(store) == before


@pytest.mark.parametrize("name", ["", "zero", "ZERO", "a\nb", "unknown"])
def test_a_name_that_cannot_be_changes_nothing(name: str, store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 40))
    before = everything(store)
    with pytest.raises(UsageError, match="class name"):
        store.name(store.discover()[0], name)
    assert (everything(store), store.revision) == (before, 0)
    store.name(store.discover()[0], "axolotl")
    assert store.revision == 1


def test_decisions_over_pictures_that_are_not_there_or_have_a_name_are_refused(
    store: Store, strange: ImageDataset
) -> None:
    store.ingest(some(strange, 60))
    group = store.discover()[0]
    with pytest.raises(UsageError, match="pictures of the store"):
        store.name(["ab" * 32], "axolotl")
    with pytest.raises(UsageError, match="a group, or a list"):
        store.name("ab" * 32, "axolotl")
    with pytest.raises(UsageError, match="a decision"):
        store.reject([])
    store.name(group, "axolotl")
    for decide in (lambda: store.name(group, "newt"), lambda: store.reject(group)):
        with pytest.raises(UsageError, match="'axolotl'"):
            decide()
    assert store.revision == 1


def review_of(store: Store) -> Review:
    groups, rest = store.discover()[:2], store.unknown().pictures.digests
    taken = {digest for group in groups for digest in group.pictures.digests}
    first, second = (group.pictures.digests for group in groups)
    rejected = tuple(digest for digest in rest if digest not in taken)[:2]
    steps = ({"kind": "merge", "groups": [0, 2]}, {"kind": "move", "picture": first[0], "to": 1})
    return Review(store.id, store.revision, {"axolotl": first, "newt": second}, {}, rejected, steps)


def test_a_review_is_one_decision_and_applied_once(store: Store, strange: ImageDataset, tmp_path: Path) -> None:
    store.ingest(some(strange, 150))
    before, review = everything(store), review_of(store)
    path = tmp_path / "review.json"
    path.write_text(json.dumps(review.to_json()))
    assert Review.read(path) == review
    applied = store.apply(path)
    assert applied.revision == 1
    assert not applied.again
    kinds = [event["kind"] for event in store.history()]
    assert kinds == ["create", "merge", "move", "name", "name", "reject"]
    after = everything(store)
    assert store.apply(path) == (1, (), True)
    assert store.apply(review.to_json()).again
    assert (everything(store), store.revision) == (after, 1)
    assert store.status().states["rejected"] == 2
    store.undo()
    assert everything(store) == before


def test_reviews_of_another_state_or_store_are_refused(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 100))
    review = review_of(store)
    store.ingest(some(strange, 50, 100))  # pictures that come in do not make a review old
    with pytest.raises(ArtifactError, match="this store"):
        store.apply(replace(review, store="other"))
    store.reject(review.rejected[:1])
    before = everything(store)
    with pytest.raises(UsageError, match="revision 1, got one of 0"):
        store.apply(review)
    assert everything(store) == before


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"schema": 2},
        {"schema": 1, "store": "s", "revision": "x", "groups": []},
        {"schema": 1, "store": "s", "revision": 0, "groups": [{"name": "a"}]},
        {"schema": 1, "store": "s", "revision": 0, "groups": [{"name": "a", "pictures": ["zz"]}]},
        {"schema": 1, "store": "s", "revision": 0, "groups": [{"name": "a", "pictures": [5]}]},
        {"schema": 1, "store": "s", "revision": 0, "groups": [], "rejected": ["ab" * 32], "steps": [{"kind": "burn"}]},
    ],
)
def test_a_review_that_is_none_is_a_data_error(record: object) -> None:
    with pytest.raises(DataError):
        Review.from_json(record)


def test_a_changed_review_is_refused_and_one_by_hand_needs_no_checksum(tmp_path: Path) -> None:
    review = Review("s", 0, {"axolotl": ("ab" * 32,)}, {}, ("cd" * 32,))
    record = review.to_json()
    path = tmp_path / "review.json"
    path.write_text(json.dumps(record, indent=2))
    assert Review.read(path) == review
    path.write_text(path.read_text().replace("axolotl", "axolotm"))
    with pytest.raises(DataError, match="as it was saved"):
        Review.read(path)
    for changed in (record | {"revision": 1}, record | {"crc32": 0}, {k: v for k, v in record.items() if k != "crc32"}):
        with pytest.raises(DataError, match="as it was saved"):
            Review.from_json(changed)
    by_hand = {name: value for name, value in record.items() if name != "crc32"} | {"schema": 1}
    assert Review.from_json(by_hand) == review
    assert Review.from_json(by_hand).token() == review.token()


@pytest.mark.parametrize("text", ['{"schema": 1, "revision": 1e400}', "[" * 200_000, "<!DOCTYPE html>", "\xff"])
def test_what_is_no_json_is_no_review(tmp_path: Path, text: str) -> None:
    (tmp_path / "review.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="no JSON"):
        Review.read(tmp_path / "review.json")


def test_a_review_that_says_two_things_of_a_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="one decision per picture"):
        Review("s", 0, {"a": ("ab" * 32,)}, {}, ("ab" * 32,))


def as_files(pictures: ImageDataset, folder: Path) -> ImageDataset:
    folder.mkdir()
    for i in range(len(pictures)):
        pictures.open(i).save(folder / f"{i}.png")
    return read_images([folder])


def test_a_moved_source_folder_loses_nothing(
    make_world: MakeWorld, strange: ImageDataset, tmp_path: Path, tiny: Backbone
) -> None:
    """A model with tuned layers has to see the pictures that it learns: from the squares that its store kept."""
    photos = as_files(some(strange, 60), tmp_path / "photos")
    with Store.create(tmp_path / "store", make_world("contrastive", unfreeze=1)) as store:
        store.ingest(photos)
        group = store.discover()[0]
        (tmp_path / "photos").rename(tmp_path / "moved")
        assert len(store.thumbnails(photos.digests)) == 60
        store.name(group, "axolotl")
        answers = {answer.label for answer in store.world.predict(read_images([tmp_path / "moved"]))}
        assert "axolotl" in answers
        known = [d for d, held in store.held(photos.digests).items() if held.verdict.state == "known"][:3]
        with pytest.raises(DataError, match="not found"):
            store.name(known, "newt")
        moved = read_images([tmp_path / "moved"])
        assert store.relink(moved) == 60
        assert Path(str(store.held(known)[known[0]].place)).parent.name == "moved"
        store.name(known, "newt")
        assert store.ingest(moved) == Ingested(0, 0, 0, 60)


def test_a_detector_that_looks_inside_the_tower_sees_the_squares_that_were_kept(
    make_world: MakeWorld, strange: ImageDataset, tmp_path: Path
) -> None:
    photos = as_files(some(strange, 60), tmp_path / "photos")
    with Store.create(tmp_path / "store", make_world(space="frozen and depth 1")) as store:
        assert not store.world.from_features
        store.ingest(photos)
        (tmp_path / "photos").rename(tmp_path / "moved")
        before = everything(store)
        store.name(store.discover()[0], "axolotl")
        assert everything(store) != before
        store.undo()
        assert everything(store) == before


def test_a_head_in_a_store_is_trained_again_and_comes_back(
    make_world: MakeWorld, strange: ImageDataset, tmp_path: Path, tiny: Backbone
) -> None:
    with Store.create(tmp_path / "store", make_world("mlp", unfreeze=1)) as store:
        store.ingest(some(strange, 40))
        before, said = everything(store), store.world.predict(some(strange, 10, 50))
        assert store.name(store.unknown().pictures.digests[:6], "axolotl").reports[0].refitted
        store.ingest(some(strange, 20, 40))
    with Store.open(tmp_path / "store", tiny) as store:
        store.undo()
        now = everything(store)
        assert {digest: now[digest] for digest in before} == before
        assert store.world.predict(some(strange, 10, 50)) == said
        assert not [held for held in now.values() if held[2] == "axolotl"]


def test_another_backbone_is_let_in_by_reembedding_alone(
    make_world: MakeWorld, strange: ImageDataset, tmp_path: Path, tiny: Backbone
) -> None:
    other = build_backbone(TINY, seed=1, name="other")
    photos = as_files(some(strange, 50), tmp_path / "photos")
    with Store.create(tmp_path / "store", make_world()) as store:
        store.ingest(photos)
        group = store.discover()[0]
        store.name(group, "axolotl")
        others = [digest for digest in photos.digests if digest not in group.pictures.digests]
        store.reject(others[:2])
        (tmp_path / "photos").rename(tmp_path / "moved")
        with pytest.raises(DataError, match="50 not found"):
            store.reembed(make_world(backbone=other))
        assert store.revision == 2
        assert store.status().backbone == "tiny"
        store.check()
        moved = read_images([tmp_path / "moved"])
        assert store.reembed(make_world(backbone=other), moved) == store.revision == 3
        assert store.status().backbone == "other"
        assert "axolotl" in store.world.model.label_space_.names
        states = store.status().states
        assert (states["named"], states["rejected"], sum(states.values())) == (len(group), 2, 50)
        unknown = store.unknown()
        np.testing.assert_allclose(
            unknown.features,
            store.world.look(moved.subset(np.array([moved.digests.index(d) for d in unknown.pictures.digests]))).frozen,
            rtol=1e-4,
            atol=1e-5,
        )
        with pytest.raises(UsageError, match="embedded again"):
            store.undo()
        store.check()
    with pytest.raises(ArtifactError, match="backbone other"):
        Store.open(tmp_path / "store", tiny)
    with Store.open(tmp_path / "store", other) as store:
        assert store.ingest(some(strange, 5, 60)).new == 5


def test_its_own_pictures_teach_another_classifier_which_takes_its_place(split: OpenWorldSplit, tmp_path: Path) -> None:
    mini = load_backbone("mini", device="cpu")

    def fit(**more: ImageDataset) -> OpenWorldClassifier:
        return OpenWorldClassifier(FewShotClassifier(mini, "text-prior"), "knn", alpha=0.1).fit(split.support, **more)

    photos = as_files(some(split.pool, 60), tmp_path / "photos")
    with Store.create(tmp_path / "store", fit()) as store:
        store.ingest(photos)
        store.name(some(photos, 3), "axolotl")
        away = Path(photos.names[3]).rename(tmp_path / "away.png")
        given = store.unlabelled()
        assert sorted(given.digests) == sorted(photos.digests[4:])
        world = fit(unlabelled=given)
        used = world.model.unlabelled_
        assert used is not None
        assert used.used + used.copies + used.unknown == 56
        away.rename(photos.names[3])
        store.reembed(world)
    with Store.open(tmp_path / "store", mini) as store:
        assert store.world.model.unlabelled_ == used
        assert "axolotl" in store.world.model.label_space_.names


def test_reembedding_goes_on_where_it_ended(
    make_world: MakeWorld, strange: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clip_fewshot.open_world.store import reembedding

    monkeypatch.setattr(reembedding, "SQUARES_AT_A_TIME", 8)
    photos = as_files(some(strange, 30), tmp_path / "photos")
    other = make_world(backbone=build_backbone(TINY, seed=1, name="other"))
    with Store.create(tmp_path / "store", make_world()) as store:
        store.ingest(photos)
        (tmp_path / "photos" / "29.png").rename(tmp_path / "away.png")
        with pytest.raises(DataError, match="1 not found"):
            store.reembed(other)
        assert store.database.value("SELECT count(*) FROM embedding_next") == 29
        (tmp_path / "away.png").rename(tmp_path / "photos" / "29.png")
        looked, look = [], other.look

        def watched(images: ImageDataset) -> Sight:
            looked.append(len(images))
            return look(images)

        monkeypatch.setattr(other, "look", watched)
        store.reembed(other)
        assert looked == [1]


def test_folders_and_files_that_are_no_store_are_refused(
    store: Store, make_world: MakeWorld, tmp_path: Path, tiny: Backbone
) -> None:
    with pytest.raises(ArtifactError, match="no store"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="one that has one"):
        Store.create(store.folder, make_world())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("dear diary")
    with pytest.raises(ResourceError, match="holds"):
        Store.create(tmp_path / "full", make_world())
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "store.sqlite3").write_text("dear diary" * 1000)
    with pytest.raises(ArtifactError, match="a sound store"):
        Store.open(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "store.sqlite3").touch()
    with pytest.raises(ArtifactError, match="half-made"):
        Store.open(tmp_path / "empty")
    Store.create(tmp_path / "empty", make_world()).close()  # what a kill left before anything was in it
    other = build_backbone(TINY, seed=2, name="other")
    with pytest.raises(ArtifactError, match="backbone tiny"):
        Store.open(store.folder, other)


def test_a_newer_store_is_refused(store: Store) -> None:
    store.database.run("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(ArtifactError, match="schema 99"):
        Store.open(store.folder)


def test_damage_is_found(store: Store, strange: ImageDataset, tiny: Backbone) -> None:
    store.ingest(some(strange, 100))
    store.close()
    path = store.folder / "store.sqlite3"
    sound = path.read_bytes()
    embedding = np.asarray(store_features(store.folder, tiny)[0], "<f4").tobytes()
    place = sound.index(embedding)
    path.write_bytes(sound[: place + 5] + bytes([sound[place + 5] ^ 1]) + sound[place + 6 :])  # one bit of a number
    with Store.open(store.folder, tiny) as flipped, pytest.raises(ArtifactError, match="damaged"):
        flipped.check()
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(ArtifactError):
        Store.open(store.folder, tiny)
    path.write_bytes(sound)
    with Store.open(store.folder, tiny) as whole:
        whole.check()


def store_features(folder: Path, backbone: Backbone) -> np.ndarray:
    with Store.open(folder, backbone) as opened:
        return opened.unknown().features


def test_history_cannot_be_rewritten(store: Store, strange: ImageDataset) -> None:
    store.ingest(some(strange, 40))
    store.name(store.discover()[0], "axolotl")
    import sqlite3

    for sql in (
        "UPDATE event SET kind = 'reject'",
        "DELETE FROM event",
        "DELETE FROM change",
        "UPDATE revision SET at = ''",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.database.run(sql)


def test_a_file_that_went_stops_at_its_batch(store: Store, strange: ImageDataset, tmp_path: Path) -> None:
    photos = as_files(some(strange, 20), tmp_path / "photos")
    lost = tmp_path / "photos" / Path(photos.names[12]).name
    data = lost.read_bytes()
    lost.unlink()
    told = []
    with pytest.raises(DataError):
        store.ingest(photos, batch=5, acknowledged=told.append)
    assert told[-1].new == sum(store.status().states.values()) == 10
    lost.write_bytes(data)
    assert store.ingest(photos, batch=5)[::3] == (10, 10)
    assert sum(store.status().states.values()) == 20


def test_nothing_unknown_is_nothing_to_discover(store: Store) -> None:
    with pytest.raises(UsageError, match="unknown pictures"):
        store.discover()
    assert len(store.unknown().pictures) == len(store.unknown().features) == 0
    with pytest.raises(UsageError, match="1 picture or more"):
        store.ingest([], batch=0)


def test_a_dataset_of_any_source_can_be_ingested(store: Store) -> None:
    assert store.ingest(read_dataset("digits-wild").subset(np.arange(10))).new == 10


def test_every_commit_is_synced_and_readers_do_not_wait(store: Store) -> None:
    """No test can cut the power: what SQLite needs to survive that is asked of it."""
    asked = {name: store.database.value(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert asked == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_no_store_is_made_of_a_database_of_another_program(make_world: MakeWorld, tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite3"
    with closing(sqlite3.connect(place)) as theirs:
        theirs.execute("CREATE TABLE addresses (name TEXT)")
        theirs.commit()
    before = place.read_bytes()
    with pytest.raises(ResourceError, match=r"store\.sqlite3"):
        Store.create(tmp_path, make_world())
    assert place.read_bytes() == before
    assert list(tmp_path.iterdir()) == [place]


def test_names_that_are_no_utf8(store: Store, strange: ImageDataset, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "b\udcff"  # the byte 255
    folder.mkdir(parents=True)
    for i in range(3):
        strange.open(i).save(folder / f"{i}.png")
    for pictures in (read_dataset(tmp_path / "photos" / "b\udcff" / ".."), read_images([folder])):
        assert [name.encode() for name in pictures.label_space.names] in ([b"b\\udcff"], [])
        assert pictures.open(0).size == strange.open(0).size
        store.ingest(pictures)
    assert sum(store.status().states.values()) == 3
    store.check()
