"""Who may see which picture: the sealed test set, the unseen classes, and K shots per class.

A picture's side is decided by a hash of (seed, its content) against a threshold, never by a shuffle: identical pictures
lie on one side, and pictures added later move no old one. Where a class falls short of K by that, its threshold is
lower: the hash of its K-th picture from above. More pictures can only raise that one, so an old picture may go back to
the test side, but none leaves it: what was once measured on is never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from clip_fewshot.config.ranges import require_int, require_real
from clip_fewshot.data.cards import CARDS_SHOWN, render_cards
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import LISTED, escape, list_first, number
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.rng import derive_seed, generator
from clip_fewshot.types import BoolArray, IndexArray, LabelArray, LabelSpace


class SealedSet:
    """Images that no code can look at by accident. ``open`` returns them and records the purpose."""

    __slots__ = ("_contents", "_purposes", "n")

    def __init__(self, dataset: ImageDataset) -> None:
        self._contents: Callable[[], ImageDataset] = lambda: dataset
        self._purposes: list[str] = []
        self.n = len(dataset)

    @property
    def looks(self) -> int:
        """How often the set was opened."""
        return len(self._purposes)

    @property
    def purposes(self) -> tuple[str, ...]:
        """What for, one per look."""
        return tuple(self._purposes)

    def open(self, purpose: str) -> ImageDataset:
        """The images with their labels. Counts as a look."""
        self._purposes.append(purpose)
        return self._contents()

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"SealedSet(n={self.n}, looks={self.looks})"

    def __reduce__(self) -> NoReturn:
        fix = "send the pool instead"
        raise UsageError(expected="a sealed set to stay in its process", got="an attempt to copy or send it", fix=fix)


@dataclass(frozen=True)
class OpenWorldSplit:
    """One dataset, divided.

    Attributes:
        pool: all training images of the seen classes.
        support: ``shots`` of them per class.
        test: sealed images of the seen classes.
        novel: sealed images of the unseen classes: all of them, as none is ever used in training.
        seen, unseen: the known classes, and the hidden ones.
        shots, seed: what the support set was drawn with.
        warnings: what was left out or looks thin, one sentence each.

    Example:
        >>> import clip_fewshot as cf
        >>> split: cf.OpenWorldSplit = cf.split_open_world(cf.read_dataset("digits"), shots=4, unseen=("eight", "nine"))
        >>> split.unseen.names, len(split.support)
        (('eight', 'nine'), 32)
    """

    pool: ImageDataset
    support: ImageDataset
    test: SealedSet
    novel: SealedSet
    seen: LabelSpace
    unseen: LabelSpace
    shots: int
    seed: int
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        new = f", {len(self.novel):,} of {len(self.unseen)} unseen" if len(self.unseen) else ""
        test = f"test: {number(len(self.test), 'picture')} of {number(len(self.seen), 'class', 'classes')}{new}"
        support = f"{number(self.shots, 'shot')} of {number(len(self.pool), 'picture')}"
        return f"OpenWorldSplit({self.pool.name!r}, {support}; {test})"

    def _repr_html_(self) -> str:
        """The support set for a notebook; no sealed picture is shown."""
        names = self.support.label_space.decode(self.support.required_labels()[:CARDS_SHOWN])
        return render_cards(repr(self), self.support, dict(enumerate(names)), len(self.support) - len(names))


def split_open_world(
    dataset: ImageDataset, *, shots: int, unseen: int | Sequence[str] = 0, seed: int = 0, test_fraction: float = 0.5
) -> OpenWorldSplit:
    """Seal a test set, set the unseen classes aside, and draw K shots of each seen class.

    Args:
        dataset: labelled images. A partition of the source's own into train and test is kept.
        shots: K, at least 1.
        unseen: how many classes to hide, chosen by ``seed``, or their names.
        seed: decides sides, hidden classes and shots.
        test_fraction: expected share of the test side, in (0, 1); not used where the source has a partition. A class
            that would have fewer than ``shots`` left has a smaller one, but one test image at least.

    Raises:
        DataError: too few images for ``shots`` (each class is listed), no labels, an empty test side.
        UsageError: an argument out of range.

    Example:
        >>> import clip_fewshot as cf
        >>> split = cf.split_open_world(cf.read_dataset("digits"), shots=16, unseen=3, seed=0)
        >>> len(split.seen), len(split.unseen), len(split.support)
        (7, 3, 112)
    """
    require_real(test_fraction, "test_fraction", "(0, 1)", fix="leave images for both sides")
    require_int(shots, "shots")
    single, warnings = drop_duplicates(_read_set(dataset))
    hidden = _unseen_names(single.label_space, unseen, seed)
    seen_names = [name for name in single.label_space.names if name not in set(hidden)]
    known, novel = single.restrict(seen_names), single.restrict(hidden)
    is_test = choose_test_side(known, shots, seed, test_fraction)
    warnings += _list_topped_up(known, is_test, choose_test_side(known, 0, seed, test_fraction))
    pool, test = known.subset(np.flatnonzero(~is_test)), known.subset(np.flatnonzero(is_test))
    if not len(test):
        expected = "at least one test image"
        raise DataError(expected=expected, got="none", fix="add images or raise test_fraction", where=dataset.name)
    missing = [name for name, count in test.counts().items() if count == 0]
    if missing:
        warnings.append(f"no test image of {', '.join(map(escape, missing))}: their accuracy cannot be measured")
    return OpenWorldSplit(
        pool=pool,
        support=draw_support(pool, shots, seed),
        test=SealedSet(test),
        novel=SealedSet(novel),
        seen=known.label_space,
        unseen=novel.label_space,
        shots=shots,
        seed=seed,
        warnings=tuple(warnings),
    )


def draw_support(pool: ImageDataset, shots: int, seed: int) -> ImageDataset:
    """``shots`` images of each class, drawn without replacement by ``seed``, in the order they have in ``pool``.

    Args:
        pool: labelled images.
        shots: per class, 1 or more.
        seed: another one draws others.

    Raises:
        DataError: a class of ``pool`` has too few.

    Example:
        >>> import clip_fewshot as cf
        >>> support = cf.draw_support(cf.read_dataset("digits"), shots=2, seed=0)
        >>> len(support), set(support.counts().values())
        (20, {2})
    """
    require_int(shots, "shots")
    counts = _read_set(pool).counts()
    if min(counts.values()) < shots:
        lines = [f"{escape(name)}: have {n}, need {shots}" for name, n in counts.items() if n < shots]
        largest = min(counts.values())
        fix = f"use `shots`={largest}" if largest else "add images to the classes that have none, or leave them out"
        got = f"too few in{list_first(lines)}\n"
        raise DataError(expected=f"{number(shots, 'training image')} per class", got=got, fix=fix, where=pool.name)
    labels = pool.required_labels()
    lots = np.array([derive_seed(seed, "support", digest) for digest in pool.digests])
    order = np.lexsort((lots, labels))
    rank_in_class = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return pool.subset(np.sort(order[rank_in_class < shots]))


def _read_set(images: object) -> ImageDataset:
    if not isinstance(images, ImageDataset):
        fix = "read it with read_dataset"
        raise UsageError(expected="an ImageDataset", got=f"a {type(images).__name__}", fix=fix, where="dataset")
    return images


def stratified_folds(labels: LabelArray, n_folds: int, seed: int) -> list[tuple[IndexArray, IndexArray]]:
    """(train, validation) row numbers of ``n_folds`` folds: each row is validated once, each class spread evenly.

    Raises:
        UsageError: ``n_folds`` outside 2 .. images of the smallest class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    smallest = int(counts.min()) if len(counts) else 0
    if not 2 <= n_folds <= smallest:
        fix = f"use {smallest} folds or fewer" if smallest >= 2 else "give every class two images or more"
        got = f"{n_folds}, smallest {smallest}"
        raise UsageError(expected="n_folds from 2 to the images of the smallest class", got=got, fix=fix)
    fold_of = np.empty(len(labels), np.int64)
    dealt = 0
    for label in classes:
        rows = generator(seed, "folds", int(label)).permutation(np.flatnonzero(labels == label))
        fold_of[rows] = (dealt + np.arange(len(rows))) % n_folds  # go on where the last class stopped: even sizes
        dealt += len(rows)
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(n_folds)]


def drop_duplicates(dataset: ImageDataset) -> tuple[ImageDataset, list[str]]:
    """The first of each set of identical images; one image under two labels is an error."""
    labels = dataset.required_labels()
    first: dict[str, int] = {}
    conflicts = []
    for row, digest in enumerate(dataset.digests):
        kept = first.setdefault(digest, row)
        if labels[kept] != labels[row]:
            names = dataset.label_space.decode(labels[[kept, row]])
            conflicts.append(f"{escape(dataset.names[kept])} is {names[0]}, {escape(dataset.names[row])} is {names[1]}")
    if conflicts:
        got = f"identical images{list_first(conflicts)}\n"
        raise DataError(expected="one label per image", got=got, fix="keep one", where=dataset.name)
    surplus = len(dataset) - len(first)
    warnings = [f"left out: {number(surplus, 'image')}, each a copy of another"] if surplus else []
    return dataset.subset(np.array(list(first.values()), np.int64)), warnings


def _unseen_names(space: LabelSpace, unseen: int | Sequence[str], seed: int) -> tuple[str, ...]:
    if isinstance(unseen, str) or not isinstance(unseen, int | np.integer | Iterable):
        raise UsageError(expected="a count or a list of class names", got=repr(unseen), fix=f"write [{unseen!r}]")
    if isinstance(unseen, int | np.integer):
        if not 0 <= unseen < len(space):
            got = str(unseen)
            raise UsageError(expected=f"unseen from 0 to {len(space) - 1}", got=got, fix="leave one class to be known")
        former = dict(zip(space.names, space.former or space.names, strict=True))
        lots = sorted(space.names, key=lambda name: derive_seed(seed, "unseen", escape(former[name])))
        return space.subset(lots[: int(unseen)]).names
    hidden = space.subset(unseen)
    if len(hidden) == len(space):
        got = "all of them unseen"
        raise UsageError(expected="a class that is not unseen", got=got, fix="leave one class to be known")
    return hidden.names


def choose_test_side(dataset: ImageDataset, shots: int, seed: int, fraction: float) -> BoolArray:
    """(n,) which of the distinct pictures lie on the test side, so that each class has ``shots`` on the other.

    A class that falls short takes the pictures with the greatest hashes of its test side, but not the last one. The
    source's own parts stay as they are. Where no class falls short, ``shots`` changes nothing.

    Args:
        dataset: labelled pictures, each once.
        shots: per class, at least 0.
        seed: of the hash.
        fraction: expected share of the test side, in (0, 1).
    """
    if "test" in dataset.partition:
        return np.array([part == "test" for part in dataset.partition])
    lots = np.array([derive_seed(seed, "test", digest) for digest in dataset.digests], np.int64)
    labels, usual = dataset.required_labels(), int(fraction * 2**63)
    thresholds = [_lower_threshold(usual, lots[labels == c], shots) for c in range(len(dataset.label_space))]
    return np.asarray(lots < np.array(thresholds, np.int64)[labels])


def _lower_threshold(usual: int, lots: IndexArray, shots: int) -> int:
    """The threshold of one class; its pictures with at least that hash are for training."""
    wanted = min(shots, len(lots) - 1)
    return min(usual, int(np.sort(lots)[-wanted])) if wanted > 0 else usual


def _list_topped_up(known: ImageDataset, is_test: BoolArray, by_hash: BoolArray) -> list[str]:
    """A warning that names the classes of which pictures were taken from the test side."""
    taken = by_hash & ~is_test
    if not taken.any():
        return []
    names = known.label_space.decode(np.unique(known.required_labels()[taken]))
    listed = ", ".join(map(escape, names[:LISTED])) + (" and others" if len(names) > LISTED else "")
    return [f"too few training images by hash: {taken.sum()} came from the test side, of {listed}"]
