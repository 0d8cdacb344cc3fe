"""What methods are compared on: labelled pictures or features, support sets that all share, one test side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.data.sampling import OpenWorldSplit, draw_support, split_open_world
from clip_fewshot.errors import DataError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.features.labelled_table import read_labelled
from clip_fewshot.few_shot.objectives import read_class_texts
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.runtime.rng import derive_seed
from clip_fewshot.types import FloatArray


@dataclass(frozen=True)
class ComparedSet:
    """Labelled pictures, or their features alone.

    Attributes:
        features: pictures -> (n, d) of the untuned image tower.
        texts: the names of all classes -> (c, d) unit rows; None where there are none.
        backbone: None where there are features alone.
        model: its name.
    """

    pictures: ImageDataset
    features: Callable[[ImageDataset], FloatArray]
    texts: Callable[[Sequence[str]], FloatArray] | None
    backbone: Backbone | None
    model: str

    @classmethod
    def from_pictures(
        cls, pictures: ImageDataset, backbone: Backbone, model: str, templates: Sequence[str] = ()
    ) -> ComparedSet:
        """Pictures through a backbone; ``templates`` of the texts, empty: the usual ones."""
        pictures.required_labels()
        return cls(
            pictures,
            lambda some: encode_images(backbone, some).features,
            (lambda names: read_class_texts(backbone, names, templates)) if backbone.reads_texts else None,
            backbone,
            model,
        )

    @classmethod
    def from_table(cls, path: str | Path) -> ComparedSet:
        """A feature table, see :func:`~clip_fewshot.features.labelled_table.read_labelled`."""
        pictures, features, found, model = read_labelled(path)
        rows = {digest: i for i, digest in enumerate(pictures.digests)}
        texts, space = found, pictures.label_space
        return cls(
            pictures,
            lambda some: features[[rows[digest] for digest in some.digests]],
            None if texts is None else lambda names: texts[space.encode(names)],
            None,
            model,
        )


@dataclass(frozen=True)
class DrawnSupport:
    """A support set with its (n, d) frozen features."""

    pictures: ImageDataset
    features: FloatArray


@dataclass(frozen=True)
class MethodScene:
    """Support sets by shots, the same for every method, and the test side, opened once.

    Attributes:
        sealed: (n, d) frozen features of ``test``.
        texts: (c, d) of the classes, or None.
        looks: how often the test side was opened.
        settings: of approaches that train.
        seed: of the split, the draws and the methods.
        warnings: a sentence each.
    """

    compared: ComparedSet
    supports: Mapping[int, Sequence[DrawnSupport]]
    test: ImageDataset
    sealed: FloatArray
    texts: FloatArray | None
    looks: int
    settings: TrainSettings
    seed: int
    warnings: Sequence[str]


def arrange_methods(
    compared: ComparedSet, shot_counts: Sequence[int], seeds: int, seed: int, settings: TrainSettings
) -> MethodScene:
    """Seal the test side, draw ``seeds`` support sets at each number of shots, and open the test side for all methods.

    The draws of one number lie in those of the next, as in the main job; a number for which a class has too few
    pictures is left out, and said.

    Raises:
        DataError: too few pictures even for the smallest number of shots, one class, or no labels.
    """
    if len(compared.pictures.label_space) < 2:
        fix, where = "add pictures of another class", compared.pictures.name
        raise DataError(expected="two classes or more", got="one", fix=fix, where=where)
    split, counts, warnings = _split(compared.pictures, sorted(set(shot_counts)), seed)
    numbers = [derive_seed(seed, "draw", draw + 1) for draw in range(seeds)]
    draws = {shots: [draw_support(split.pool, shots, number) for number in numbers] for shots in counts}
    used = {digest for support in (one for drawn in draws.values() for one in drawn) for digest in support.digests}
    learned = split.pool.subset(np.flatnonzero([digest in used for digest in split.pool.digests]))
    features, rows = compared.features(learned), {digest: i for i, digest in enumerate(learned.digests)}
    supports = {
        shots: [DrawnSupport(one, features[[rows[digest] for digest in one.digests]]) for one in drawn]
        for shots, drawn in draws.items()
    }
    test = split.test.open("comparison of methods")
    return MethodScene(
        compared=compared,
        supports=supports,
        test=test,
        sealed=compared.features(test),
        texts=None if compared.texts is None else compared.texts(split.seen.names),
        looks=split.test.looks,
        settings=settings,
        seed=seed,
        warnings=[*warnings, *split.warnings],
    )


def _split(pictures: ImageDataset, counts: Sequence[int], seed: int) -> tuple[OpenWorldSplit, Sequence[int], list[str]]:
    """The split for the greatest number of shots that the pictures allow, and the numbers up to it."""
    found = _try_split(pictures, counts[-1], seed)
    if isinstance(found, OpenWorldSplit):
        return found, counts, []
    if len(counts) == 1:
        raise found
    split, kept, warnings = _split(pictures, counts[:-1], seed)
    return split, kept, [" ".join(f"at {number(counts[-1], 'shot')} left out: {found}".split()), *warnings]


def _try_split(pictures: ImageDataset, shots: int, seed: int) -> OpenWorldSplit | DataError:
    try:
        return split_open_world(pictures, shots=shots, seed=seed)
    except DataError as error:
        return error


def name_sets(places: Sequence[str]) -> list[str]:
    """The last part of each path without its ending, or all of it where another ends so too."""
    last = [Path(place).stem for place in places]
    return [name if last.count(name) == 1 else place for name, place in zip(last, places, strict=True)]
