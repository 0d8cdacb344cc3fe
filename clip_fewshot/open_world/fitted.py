"""What a fitted open-world classifier is made of, and what was named since: all that a file or an undo needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import check_class_name
from clip_fewshot.few_shot.approach import PROBE, Point
from clip_fewshot.few_shot.model import TunedModel
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.probes.base import NameProbe
from clip_fewshot.types import FloatArray, LabelArray, LabelSpace


@dataclass(frozen=True, eq=False)
class KnownPictures:
    """Pictures that a model has learned from, as far as another training needs them.

    Attributes:
        frozen: (n, d) features of the untuned tower. labels: (n,).
        pictures: the pictures themselves, where :func:`needs_pictures`.
    """

    frozen: FloatArray
    labels: LabelArray
    pictures: ImageDataset | None = None

    def first(self, n: int) -> KnownPictures:
        """The first n."""
        pictures = None if self.pictures is None else self.pictures.subset(np.arange(n))
        return KnownPictures(self.frozen[:n], self.labels[:n], pictures)

    def join(self, more: KnownPictures) -> KnownPictures:
        """These and then ``more``."""
        if not len(more.labels):
            return self
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
