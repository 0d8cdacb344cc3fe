"""Sides are decided by content, sealed sets tell nothing, and K means K."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import SealedSet, draw_support, split_open_world, stratified_folds
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.rng import derive_seed
from clip_fewshot.types import LabelSpace

BLANK = Image.new("RGB", (8, 8))


def plain(labels: list[int], start: int = 0, classes: int | None = None, partition: str = "") -> ImageDataset:
    """A dataset whose digests are "0", "1", ...: sampling looks at nothing else."""
    n = len(labels)
    return ImageDataset(
        name="plain",
        images=(BLANK,) * n,
        names=tuple(f"image-{start + i}" for i in range(n)),
        labels=np.array(labels, np.int64),
        label_space=LabelSpace(tuple(f"class-{c}" for c in range(classes or max(labels, default=0) + 1))),
        captions=None,
        partition=(partition,) * n,
        digests=tuple(str(start + i) for i in range(n)),
    )


def joined(*parts: ImageDataset) -> ImageDataset:
    return ImageDataset(
        name="joined",
        images=sum((p.images for p in parts), ()),
        names=sum((p.names for p in parts), ()),
        labels=np.concatenate([p.required_labels() for p in parts]),
        label_space=max((p.label_space for p in parts), key=len),
        captions=None,
        partition=sum((p.partition for p in parts), ()),
        digests=sum((p.digests for p in parts), ()),
    )


def sides(dataset: ImageDataset, shots: int = 1, **options: Any) -> dict[str, str]:
    split = split_open_world(dataset, shots=shots, **options)
    parts = {"pool": split.pool, "test": split.test.open("t"), "novel": split.novel.open("t")}
    return {name: side for side, part in parts.items() for name in part.names}


def by_hash(dataset: ImageDataset, shots: int, seed: int, fraction: float) -> tuple[set[str], set[str]]:
    """(training, test) by the rule in words: the threshold, and then class by class the next hashes. An oracle."""
    lots = {
        name: derive_seed(seed, "test", digest) for name, digest in zip(dataset.names, dataset.digests, strict=True)
    }
    training: set[str] = set()
    for c in range(len(dataset.label_space)):
        own = [name for name, label in zip(dataset.names, dataset.required_labels(), strict=True) if label == c]
        falling = sorted(own, key=lambda name: -lots[name])
        taken = [name for name in falling if lots[name] >= int(fraction * 2**63)]
        while len(taken) < min(shots, len(own) - 1):
            taken.append(falling[len(taken)])
        training |= set(taken)
    return training, set(dataset.names) - training


LABELS = st.lists(st.integers(0, 3), max_size=40)
SEEDS, SHOTS, FRACTIONS = st.integers(0, 10**9), st.integers(1, 8), st.sampled_from([0.2, 0.5, 0.8])


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, old=LABELS, new=LABELS, shots=SHOTS, fraction=FRACTIONS, data=st.data())
def test_added_images_take_no_other_out_of_the_test_side(
    seed: int, old: list[int], new: list[int], shots: int, fraction: float, data: st.DataObject
) -> None:
    first, more = plain([*range(4), *old], classes=4), plain(new, start=1000, classes=4)
    together = joined(first, more)
    shuffled = together.subset(np.array(data.draw(st.permutations(range(len(together))))))
    options: dict[str, Any] = {"shots": shots, "seed": seed, "test_fraction": fraction}
    try:
        before = sides(first, **options)
    except DataError:
        return  # a class of at most K images, or none on the test side
    after = sides(shuffled, **options)
    moved = {(before[name], after[name]) for name in before if after[name] != before[name]}
    assert moved <= {("pool", "test")}
    assert all(after[name] == "pool" for name in by_hash(first, 0, seed, fraction)[0])  # by the threshold alone


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, labels=LABELS, shots=SHOTS, fraction=FRACTIONS, unseen=st.integers(0, 2))
def test_a_class_that_falls_short_takes_its_next_hashes(
    seed: int, labels: list[int], shots: int, fraction: float, unseen: int
) -> None:
    dataset = plain([*range(4), *labels], classes=4)
    options: dict[str, Any] = {"shots": shots, "seed": seed, "test_fraction": fraction}
    try:
        split = split_open_world(dataset, unseen=unseen, **options)
    except DataError:
        training, test = by_hash(dataset, shots, seed, fraction)
        assert min(dataset.counts().values()) <= shots or not test or unseen
        return
    known = dataset.restrict(split.seen.names)
    training, test = by_hash(known, shots, seed, fraction)
    assert (set(split.pool.names), set(split.test.open("t").names)) == (training, test)
    assert set(split.support.counts().values()) == {shots}
    by_threshold, _ = by_hash(known, 0, seed, fraction)
    taken = len(training - by_threshold)
    assert training >= by_threshold
    told = [line for line in split.warnings if "came from the test side" in line]
    assert [f": {taken} came" in line for line in told] == [True] * bool(taken)


def test_a_class_gives_all_but_one_of_its_test_images() -> None:
    dataset = plain([0] * 13 + [1] * 5)
    for seed in range(40):
        split = split_open_world(dataset, shots=4, seed=seed)
        assert split.test.open("t").counts()["class-1"] >= 1 or by_hash(dataset, 0, seed, 0.5)[0] >= {
            f"image-{i}" for i in range(13, 18)
        }
    with pytest.raises(DataError, match="class-1: have 4, need 5"):
        split_open_world(dataset, shots=5, seed=0)


def test_twelve_images_a_class_are_always_enough_for_four_shots() -> None:
    """By a coin for each picture 7 % of such classes are refused: (1 + 12 + 66 + 220) / 4096."""
    dataset = plain(list(range(50)) * 12)
    short = [seed for seed in range(40) if min(_training_by_hash(dataset, seed)) < 4]
    assert len(short) > 30
    assert all(set(split_open_world(dataset, shots=4, seed=seed).support.counts().values()) == {4} for seed in short)


def _training_by_hash(dataset: ImageDataset, seed: int) -> list[int]:
    training = by_hash(dataset, 0, seed, 0.5)[0]
    return [sum(f"image-{i}" in training for i in range(c, len(dataset), 50)) for c in range(50)]


def test_the_test_part_of_a_source_gives_nothing() -> None:
    dataset = joined(plain([0, 1, 0], partition="train"), plain([0, 1] * 5, start=100, partition="test"))
    with pytest.raises(DataError, match="class-1: have 1, need 2"):
        split_open_world(dataset, shots=2)
    assert len(split_open_world(dataset, shots=1).support) == 2


def test_every_image_lands_on_one_side_and_seeds_differ() -> None:
    dataset = plain([0, 1, 2] * 200)
    layouts = [sides(dataset, seed=seed) for seed in range(3)]
    assert all(set(layout) == set(dataset.names) for layout in layouts)
    assert layouts[0] != layouts[1] != layouts[2]
    shares = [list(layout.values()).count("test") / 600 for layout in layouts]
    assert all(abs(share - 0.5) < 0.1 for share in shares)  # six deviations of a fair coin
    few = list(sides(dataset, test_fraction=0.1).values()).count("test") / 600
    assert abs(few - 0.1) < 0.08


def test_the_partition_of_the_source_is_kept() -> None:
    dataset = joined(plain([0, 1] * 5, partition="train"), plain([0, 1] * 5, start=100, partition="test"))
    layout = sides(dataset)
    assert {n for n, side in layout.items() if side == "pool"} == set(dataset.names[:10])


def test_a_source_with_a_training_part_only_is_split_by_content() -> None:
    dataset = plain([0, 1] * 20, partition="train")
    assert sides(dataset) == sides(plain([0, 1] * 20))


def test_unseen_classes_are_novel_as_a_whole() -> None:
    dataset = joined(plain([0, 1, 2] * 8, partition="train"), plain([0, 1, 2] * 8, start=100, partition="test"))
    split = split_open_world(dataset, shots=2, unseen=["class-1"])
    novel = split.novel.open("look")
    assert novel.counts() == {"class-1": 16}
    assert split.seen.names == ("class-0", "class-2") == split.pool.label_space.names
    assert split.unseen.names == ("class-1",)
    assert {dataset.names.index(name) % 3 for name in (*split.pool.names, *split.test.open("t").names)} == {0, 2}
    assert split.test.open("t").counts() == {"class-0": 8, "class-2": 8}


def test_a_count_of_unseen_classes_is_drawn_by_the_seed() -> None:
    dataset = plain(list(range(10)) * 20)
    drawn = {split_open_world(dataset, shots=1, unseen=3, seed=seed).unseen.names for seed in range(8)}
    assert len(drawn) > 4
    assert all(len(names) == 3 for names in drawn)
    smaller = split_open_world(dataset, shots=1, unseen=2, seed=3).unseen.names
    assert set(smaller) < set(split_open_world(dataset, shots=1, unseen=3, seed=3).unseen.names)


@pytest.mark.parametrize("unseen", [3, -1, ["class-0", "class-1", "class-2"], ["clazz"], "class-0"])
def test_unseen_classes_out_of_range(unseen: int | list[str] | str) -> None:
    with pytest.raises(UsageError):
        split_open_world(plain([0, 1, 2] * 9), shots=1, unseen=unseen)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(UsageError, match="test_fraction"):
        split_open_world(plain([0, 1] * 9), shots=1, test_fraction=fraction)


def test_copies_are_left_out_with_a_warning_and_conflicts_refused() -> None:
    dataset = plain([0, 1] * 20)
    split = split_open_world(joined(dataset, dataset), shots=1)
    assert sides(joined(dataset, dataset)) == sides(dataset)
    assert "left out: 40 images, each a copy" in split.warnings[0]
    with pytest.raises(DataError, match="image-0 is class-0, image-0 is class-1"):
        split_open_world(joined(dataset, plain([1])), shots=1)


def test_too_few_images_are_listed_with_the_largest_shots_that_work() -> None:
    pool = plain([0] * 9 + [1] * 4 + [2] * 6)
    with pytest.raises(DataError) as caught:
        draw_support(pool, 8, seed=0)
    assert "class-1: have 4, need 8" in str(caught.value)
    assert "class-2: have 6, need 8" in str(caught.value)
    assert "class-0" not in str(caught.value)
    assert "`shots`=4" in str(caught.value)
    assert len(draw_support(pool, 4, seed=0)) == 12
    with pytest.raises(DataError, match="add images"):
        draw_support(plain([0, 0], classes=2), 1, seed=0)
    with pytest.raises(UsageError, match="shots"):
        draw_support(pool, 0, seed=0)


def test_support_sets_are_balanced_fresh_and_stable() -> None:
    pool = plain([0] * 40 + [1] * 60)
    draws = [draw_support(pool, 5, seed) for seed in range(5)]
    assert all(draw.counts() == {"class-0": 5, "class-1": 5} for draw in draws)
    assert len({draw.names for draw in draws}) == 5
    assert draws[0].names == draw_support(pool, 5, 0).names
    turned = draw_support(pool.subset(np.arange(100)[::-1]), 5, 0)
    assert set(turned.names) == set(draws[0].names)
    assert set(draws[0].names) < set(draw_support(pool, 6, 0).names)


def test_every_image_is_drawn_equally_often() -> None:
    pool = plain([0] * 20)
    hits = np.zeros(20)
    for seed in range(2000):
        hits[[int(name.split("-")[1]) for name in draw_support(pool, 5, seed).names]] += 1
    assert np.abs(hits - 500).max() < 6 * np.sqrt(2000 * 0.25 * 0.75)


@settings(max_examples=80, deadline=None)
@given(counts=st.lists(st.integers(2, 9), min_size=1, max_size=6), folds=st.integers(2, 9), seed=st.integers(0, 2**40))
def test_folds_validate_each_row_once_and_split_the_shots(counts: list[int], folds: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    if folds > min(counts):
        with pytest.raises(UsageError, match=f"smallest {min(counts)}"):
            stratified_folds(labels, folds, seed)
        return
    pieces = stratified_folds(labels, folds, seed)
    assert sorted(np.concatenate([validation for _, validation in pieces])) == list(range(len(labels)))
    sizes = [len(validation) for _, validation in pieces]
    assert max(sizes) - min(sizes) <= 1
    for train, validation in pieces:
        assert sorted([*train, *validation]) == list(range(len(labels)))
        assert set(labels[train]) == set(labels)
        per_class = np.bincount(labels[validation], minlength=len(counts))
        assert all(n // folds <= m <= -(-n // folds) for n, m in zip(counts, per_class, strict=True))
    again = stratified_folds(labels, folds, seed)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(pieces, again, strict=True))


def test_a_sealed_set_tells_its_size_only_and_counts_looks() -> None:
    sealed = SealedSet(plain([0, 1] * 3))
    assert (len(sealed), sealed.n, sealed.looks) == (6, 6, 0)
    for text in (repr(sealed), str(sealed), f"{sealed}", repr([sealed])):
        assert "class" not in text
        assert "image" not in text
    assert not [name for name in dir(sealed) if name in ("labels", "images", "names", "digests", "counts")]
    assert not hasattr(sealed, "__dict__")
    assert not any(isinstance(getattr(sealed, slot), ImageDataset) for slot in sealed.__slots__)
    assert sealed.open("final accuracy").names[0] == "image-0"
    sealed.open("novelty")
    assert sealed.looks == 2
    assert sealed.purposes == ("final accuracy", "novelty")


def test_a_sealed_set_is_not_copied_or_sent() -> None:
    sealed = SealedSet(plain([0, 1]))
    for send in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError, match="sealed"):
            send(sealed)


def test_permuting_the_test_labels_moves_nothing_before_the_seal() -> None:
    dataset = plain([0, 1, 2] * 30)
    split = split_open_world(dataset, shots=3, seed=4)
    in_test = np.array([name in split.test.open("t").names for name in dataset.names])
    labels = dataset.required_labels().copy()
    labels[in_test] = np.random.default_rng(0).permutation(labels[in_test])
    permuted = ImageDataset(**{**{k: getattr(dataset, k) for k in dataset.__dataclass_fields__}, "labels": labels})
    other = split_open_world(permuted, shots=3, seed=4)
    assert other.support.names == split.support.names
    assert other.pool.fingerprint() == split.pool.fingerprint()
    assert other.test.open("t").names == split.test.open("t").names


def test_a_class_without_test_images_is_named() -> None:
    dataset = joined(plain([0, 1] * 4, partition="train"), plain([0] * 4, start=50, classes=2, partition="test"))
    assert "class-1" in split_open_world(dataset, shots=1).warnings[0]


def test_a_set_without_labels_cannot_be_split() -> None:
    unlabelled = ImageDataset("u", (BLANK,), ("a",), None, LabelSpace(()), None, ("",), ("d",))
    with pytest.raises(DataError, match="labelled"):
        split_open_world(unlabelled, shots=1)
