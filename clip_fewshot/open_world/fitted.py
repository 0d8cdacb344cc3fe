"""What a fitted open-world classifier is made of, and what was named since: all that a file or an undo needs.

Every naming can be taken back, and no picture is named twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.data.collect import Images, collect_images, join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import pixel_digest
from clip_fewshot.data.names import check_class_name, number
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import PROBE, Point
from clip_fewshot.few_shot.model import TunedModel
from clip_fewshot.open_world.groups import Group
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.probes.base import NameProbe
from clip_fewshot.types import FloatArray, IndexArray, LabelArray, LabelSpace


@dataclass(frozen=True, eq=False)
class KnownPictures:
    """Pictures that a model has learned from, as far as another training needs them.

    Attributes:
        frozen: (n, d) features of the untuned tower. labels: (n,).
        pictures: the pictures themselves, where :func:`needs_pictures`.
        losses: (n,) -ln p of the class of each, by models that were trained without it: what sets of classes are
            calibrated on; nan for a copy of one before. None: not known. They are those of one model: fewer or more
            pictures have none.
    """

    frozen: FloatArray
    labels: LabelArray
    pictures: ImageDataset | None = None
    losses: FloatArray | None = None

    def __repr__(self) -> str:
        return f"KnownPictures({len(self.labels):,} of {number(len(np.unique(self.labels)), 'class', 'classes')})"

    def first(self, n: int) -> KnownPictures:
        """The first n."""
        pictures = None if self.pictures is None else self.pictures.subset(np.arange(n))
        return KnownPictures(self.frozen[:n], self.labels[:n], pictures)

    def join(self, more: KnownPictures) -> KnownPictures:
        """These and then ``more``; losses go in any case: a class that came by its name alone changes the model too."""
        if not len(more.labels):
            return replace(self, losses=None)
        pictures = None
        if self.pictures is not None and more.pictures is not None:
            pictures = join_images([self.pictures, more.pictures])
        frozen = np.concatenate([self.frozen, more.frozen.astype(self.frozen.dtype, copy=False)])
        return KnownPictures(frozen, np.concatenate([self.labels, more.labels]), pictures)


class Fitted(NamedTuple):
    """All that a naming changes."""

    model: TunedModel
    names: LabelSpace
    rejector: Rejector | None
    known: KnownPictures

    def without_pictures(self) -> tuple[str, ...]:
        """The classes that are known by their name only; none where nothing is kept of any picture."""
        learned, probe = set(self.known.labels.tolist()), self.model.probe
        if not learned or probe is None or not isinstance(probe, NameProbe):
            return ()
        return tuple(name for label, name in enumerate(self.names.names) if label not in learned)


def extend_names(fitted: Fitted, classes: Mapping[str, object]) -> LabelSpace:
    """The names of ``fitted``, and those of ``classes`` that are not there.

    Raises:
        UsageError: a name that cannot be one, or that is taken, but for a class that gets its first pictures.
    """
    waiting, taken = fitted.without_pictures(), list(fitted.names.names)
    for name, given in classes.items():
        if given is None or name not in waiting:
            taken.append(check_class_name(name, taken))
    return LabelSpace(tuple(taken))


@dataclass(frozen=True)
class Naming:
    """One entry of a model's history.

    Attributes:
        classes: name -> digests of the pictures it was given; none where it is known by its name only.
        new: whether the classes began with it; False: the pictures joined classes that were there.
    """

    classes: Mapping[str, tuple[str, ...]]
    new: bool

    def __repr__(self) -> str:
        given = ", ".join(f"{name!r}: {number(len(digests), 'picture')}" for name, digests in self.classes.items())
        return f"Naming({given})"

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Naming:
        """The inverse of :meth:`to_json`."""
        return cls({name: tuple(digests) for name, digests in record["classes"].items()}, record["new"])


class Step(NamedTuple):
    """A naming, the model before it, and the unknown pictures before it, which are not written."""

    naming: Naming
    before: Fitted
    unknown: list[UnknownPictures]


def needs_pictures(point: Point, views: int, rejector: Rejector | None) -> bool:
    """Whether classifier or detector need more of a picture than its frozen features, to judge it or to learn it."""
    tuned = point.approach != PROBE and (point.unfreeze > 0 or views > 1)
    return tuned or (rejector is not None and bool(rejector.suffixes()))


@dataclass
class History:
    """Namings, oldest first."""

    steps: list[Step] = field(default_factory=list)

    @property
    def namings(self) -> tuple[Naming, ...]:
        """Without what was before them."""
        return tuple(step.naming for step in self.steps)

    def with_a_name(self) -> set[str]:
        """Digests of the pictures that a class was named on."""
        return {digest for naming in self.namings for part in naming.classes.values() for digest in part}

    def take_back(self) -> Step:
        """The last entry, which goes.

        Raises:
            UsageError: nothing was named.
        """
        if not self.steps:
            raise UsageError(expected="a naming", got="none", fix="name something first", where="undo")
        return self.steps.pop()

    def gather(
        self,
        classes: Mapping[str, Group | Images | None],
        names: LabelSpace,
        encode: Callable[[ImageDataset], FloatArray],
        from_features: bool,
        nothing: KnownPictures,
    ) -> tuple[dict[str, tuple[str, ...]], KnownPictures]:
        """What is to be named: each class's digests, and all pictures with labels in ``names``.

        Args:
            encode: pictures -> (n, d) frozen features, for those that come without.
            from_features: whether these are all that the model needs; else the pictures are handed on too.
            nothing: what comes back where all classes are None, known by their names only.

        Raises:
            UsageError: no picture that has no name yet, or one in two classes.
        """
        parts = {name: self._fresh(given, encode) for name, given in classes.items() if given is not None}
        digests = {name: parts[name][0].digests if name in parts else () for name in classes}
        _refuse_doubles(digests)
        if not parts:
            return digests, nothing
        labels = np.repeat(names.encode(parts), [len(pictures) for pictures, _ in parts.values()])
        features = np.concatenate([features for _, features in parts.values()])
        given = None if from_features else join_images([_kept(pictures) for pictures, _ in parts.values()])
        return digests, KnownPictures(features, labels, given)

    def _fresh(
        self, given: Group | Images, encode: Callable[[ImageDataset], FloatArray]
    ) -> tuple[ImageDataset, FloatArray]:
        """The pictures that no class was named on yet, each once, and their frozen features."""
        pictures = given.pictures if isinstance(given, Group) else collect_images(given, purpose="name")
        rows = _first_of_each(pictures, self.with_a_name())
        chosen = pictures.subset(rows)
        return chosen, given.features[rows] if isinstance(given, Group) else encode(chosen)


def _first_of_each(pictures: ImageDataset, taken: Collection[str]) -> IndexArray:
    """Rows of the pictures that have no name yet, each picture once.

    Raises:
        UsageError: there are none.
    """
    first = {digest: row for row, digest in reversed([*enumerate(pictures.digests)]) if digest not in taken}
    if not first:
        got = "none" if not len(pictures) else "pictures that have their class already"
        raise UsageError(expected="pictures to make a class of", got=got, fix="choose others", where="extension")
    return np.array(sorted(first.values()), dtype=np.int64)


def _refuse_doubles(digests: Mapping[str, Sequence[str]]) -> None:
    every = [digest for part in digests.values() for digest in part]
    if len(set(every)) < len(every):
        raise UsageError(
            expected="a picture in one class", got="one in several", fix="decide for one of them", where="extension"
        )


def _kept(pictures: ImageDataset) -> ImageDataset:
    """``pictures`` to train on: those in memory go by what their pixels are, whatever file they were cut from."""
    own = zip(pictures.images, pictures.digests, strict=True)
    digests = tuple(digest if isinstance(image, Path) else pixel_digest(image) for image, digest in own)
    return replace(pictures, digests=digests)
