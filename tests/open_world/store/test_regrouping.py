"""What discovery found is kept in the store, grows with it, and is told again where it is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.discovery.undecided import UNDECIDED
from clip_fewshot.open_world.groups import Group
from clip_fewshot.open_world.store import regrouping
from clip_fewshot.open_world.store.store import Store


def part(pictures: ImageDataset, start: int, end: int) -> ImageDataset:
    return pictures.subset(np.arange(start, end))


def members(groups: tuple[Group, ...]) -> list[set[str]]:
    return [{*group.pictures.digests} for group in groups]


def kept(store: Store) -> regrouping.Kept | None:
    return regrouping._read(store.database, store.revision)


def test_what_a_class_was_answered_for_may_join_and_stays_known(store: Store, strange: ImageDataset) -> None:
    store.ingest(strange)
    groups = store.discover()
    answered = {
        digest: name
        for group in groups
        for digest, name in zip(group.pictures.digests, group.answered, strict=True)
        if name is not None
    }
    assert answered
    held = store.held(answered)
    assert all(one.verdict.state == "known" and one.verdict.label == answered[one.digest] for one in held.values())
    assert all(one.verdict.p_value <= UNDECIDED for one in held.values())
    named = next(group for group in groups if any(group.answered))
    store.name(named, "axolotl")
    assert {one.verdict.label for one in store.held(named.pictures.digests).values()} == {"axolotl"}
    store.undo()
    assert store.held(answered) == held


def test_the_same_again_is_what_was_found(store: Store, strange: ImageDataset) -> None:
    store.ingest(part(strange, 0, 200))
    assert kept(store) is None
    groups, found = store.discover(), store.discovery_
    first = kept(store)
    assert first is not None
    assert first.fresh == len(store.unknown().p_values) + sum(
        one.verdict.state == "known" and one.verdict.p_value <= UNDECIDED
        for one in store.held(strange.digests).values()
    )
    again = store.discover()
    assert members(again) == members(groups)
    assert np.array_equal(store.discovery_.labels, found.labels)
    assert np.array_equal(store.discovery_.linkage, found.linkage)
    assert (store.discovery_.interval, store.discovery_.stability) == (found.interval, found.stability)


def test_groups_grow_until_the_pictures_have_doubled(store: Store, strange: ImageDataset) -> None:
    store.ingest(part(strange, 0, 150))
    before = members(store.discover())
    first = kept(store)
    store.ingest(part(strange, 150, 200))
    after = members(store.discover())
    second = kept(store)
    assert first is not None
    assert second is not None
    assert second.fresh == first.fresh
    assert second.last > first.last
    assert all(any(old <= new for new in after) for old in before)  # a group only grows
    assert sum(map(len, after)) > sum(map(len, before))
    assert len(store.discovery_.linkage) == len(store.discovery_.labels) - 1
    assert len(store.discovery_.labels) == len(store.grouped_.answered)
    store.ingest(part(strange, 200, len(strange)))
    store.discover()
    third = kept(store)
    assert third is not None
    assert third.fresh > first.fresh


def test_a_decision_groups_afresh(store: Store, strange: ImageDataset) -> None:
    store.ingest(part(strange, 0, 150))
    store.name(store.discover()[0], "axolotl")
    assert kept(store) is None
    groups = members(store.discover())
    assert not any(one & {*store.session.world.named_[0].classes["axolotl"]} for one in groups)


def test_what_is_damaged_is_found_again(store: Store, strange: ImageDataset) -> None:
    store.ingest(part(strange, 0, 150))
    groups = members(store.discover())
    store.database.run("UPDATE grouping SET told = '{}'")
    assert kept(store) is None
    assert members(store.discover()) == groups
    store.database.run("DROP TABLE grouping")
    assert members(store.discover()) == groups


def test_another_process_goes_on_from_it(store: Store, strange: ImageDataset, tmp_path: Path) -> None:
    store.ingest(part(strange, 0, 150))
    groups = members(store.discover())
    with Store.open(store.folder, store.world.model.backbone) as other:
        assert members(other.discover()) == groups
        assert kept(other) is not None
