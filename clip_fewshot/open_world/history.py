"""What was named: every entry can be taken back, and no picture is named twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from clip_fewshot.data.collect import Images, collect_images, join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import pixel_digest
from clip_fewshot.errors import UsageError
from clip_fewshot.open_world.fitted import KnownPictures, Naming, Step
from clip_fewshot.open_world.groups import Group
from clip_fewshot.types import FloatArray, IndexArray, LabelSpace


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
