"""An open-world classifier as files: the model now, and every model that an undo can go back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import safetensors.numpy
import safetensors.torch
from numpy.typing import NDArray

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config import AUTO
from clip_fewshot.conformal.p_values import USUAL_ALPHA, choose_alpha
from clip_fewshot.data.squares import decode_squares, encode_squares
from clip_fewshot.discovery import Discovery
from clip_fewshot.few_shot.classifier import NOTHING, FewShotClassifier
from clip_fewshot.novelty import DETECTORS, DetectorPart, find_detector
from clip_fewshot.open_world.fitted import Fitted, History, KnownPictures, Naming, Step, needs_pictures
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.probes.checked import UnfittedError
from clip_fewshot.runtime.artifacts import open_artifact, save_artifact
from clip_fewshot.runtime.parts import find_trusted_part
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.types import FloatArray, LabelArray, LabelSpace

OPEN_WORLD_KIND = "open-world classifier"
WORLD_WEIGHTS, REJECTOR, REFERENCE_WEIGHTS = "weights.safetensors", "rejector.safetensors", "reference.safetensors"

World = TypeVar("World", bound="WorldState")


class Saved(NamedTuple):
    """What is written: the model now, its history, oldest first, and what was ever named."""

    now: Fitted
    steps: list[Step]
    shown: frozenset[str]


def write_world(model: FewShotClassifier, saved: Saved) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(files, meta). What a naming only adds to, the classes and the known pictures, is written once."""
    files, meta = _fitted_files(model, saved.now, "")
    meta |= {"namings": [], "shown": sorted(saved.shown)}
    for i, (naming, before, _) in enumerate(saved.steps):
        own, about = _fitted_files(model, before, f"before-{i}.")
        files |= own
        kept = {"classes": len(before.names), "known": len(before.known.labels), "rejector": about["rejector"]}
        kept |= {name: about[name] for name in ("temperature", "numbers") if name in about}
        meta["namings"].append(naming.to_json() | {"before": kept})
    reference = {"features": saved.now.known.frozen, "labels": saved.now.known.labels}
    every = {"losses": saved.now} | {_losses(i): before for i, (_, before, _) in enumerate(saved.steps)}
    reference |= {name: one.known.losses for name, one in every.items() if one.known.losses is not None}
    files[REFERENCE_WEIGHTS] = safetensors.numpy.save(reference)
    pictures = saved.now.known.pictures
    if pictures is not None and needs_pictures(model.point, model.views, saved.now.rejector):
        squares = encode_squares(pictures, model.backbone.image_size)
        ends = [*(len(before.known.labels) for _, before, _ in saved.steps), len(squares)]
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            files[_pictures(i)] = _pack(squares[start:end])  # a file per naming: what was there stays as it is
    return files, meta


def load_world(
    files: dict[str, bytes],
    meta: dict[str, Any],
    backbone: Backbone | None,
    where: str,
    trusted: Mapping[str, Any],
) -> tuple[FewShotClassifier, Saved]:
    """The inverse of :func:`write_world`. Files of releases that kept no history have none."""
    model = FewShotClassifier.from_artifact(files, meta, backbone, where, trusted)

    def rejector(about: dict[str, Any] | None, prefix: str) -> Rejector | None:
        if about is None:
            return None
        tensors = safetensors.torch.load(files[f"{prefix}{REJECTOR}"])
        return Rejector.from_tensors(about, tensors, model.backbone, trusted, where)

    names, reference = model.label_space_, safetensors.numpy.load(files[REFERENCE_WEIGHTS])
    known = _read_known(files, reference)
    now = Fitted(model.model_, names, rejector(meta["rejector"], ""), known)
    steps = []
    for i, record in enumerate(meta.get("namings", [])):
        kept, prefix = record["before"], f"before-{i}."
        space = LabelSpace(names.names[: kept["classes"]], numbers="numbers" in kept)
        own = {WORLD_WEIGHTS: files[f"{prefix}{WORLD_WEIGHTS}"]}
        about = meta | {"classes": list(space.names), "temperature": kept.get("temperature", 1.0)}
        about |= {"numbers": True} if space.numbers else {}
        old = FewShotClassifier.from_artifact(own, about, model.backbone, where, trusted)
        known_then = replace(known.first(kept["known"]), losses=reference.get(_losses(i)))
        before = Fitted(old.model_, space, rejector(kept["rejector"], prefix), known_then)
        steps.append(Step(Naming.from_json(record), before, []))
    return model, Saved(now, steps, frozenset(meta.get("shown", [])))


def read_detector(name: str, trusted: Mapping[str, Any], where: str) -> str | DetectorPart:
    """What a classifier was asked to detect with, by the ``name`` in its files."""
    if name in (AUTO, *DETECTORS):
        return name
    part: DetectorPart = find_trusted_part("detectors", name, {}, trusted, where)
    return part


class WorldState:
    """What an open-world classifier holds, and how it is written; its arguments and attributes are told there."""

    rejector_: Rejector | None
    unknown_: list[UnknownPictures]
    grouped_: UnknownPictures
    discovery_: Discovery
    known_: KnownPictures
    shown_: frozenset[str]
    _history: History
    _seen: FloatArray

    def __init__(
        self,
        model: FewShotClassifier,
        detector: str | DetectorPart = AUTO,
        alpha: float | None = None,
        per_class: bool = False,
    ) -> None:
        self.model, self.detector, self.alpha, self.per_class = model, detector, alpha, per_class

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Asked where there is no such attribute."""
            if name.startswith("__") or not name.endswith(("_", "_history", "_seen")) or "known_" in vars(self):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            got, fix = "one that never saw a picture", "call fit first"
            raise UnfittedError(expected="a fitted classifier", got=got, fix=fix, where=name)

    @property
    def classes_(self) -> NDArray[Any]:
        """(c,) the classes that pictures are given now, as :attr:`FewShotClassifier.classes_`."""
        return self.model.classes_

    @property
    def alpha_(self) -> float:
        """The false-alarm rate in force: ``alpha``, or what stands for None."""
        asked = USUAL_ALPHA if self.alpha is None else self.alpha
        return asked if self.rejector_ is None else choose_alpha(self.alpha, self.rejector_.n_calibration)

    def _begin(self, rejector: Rejector | None, known: KnownPictures) -> None:
        self.rejector_, self.known_ = rejector, known
        self.unknown_, self._history, self.shown_ = [], History(), frozenset[str]()
        self._seen = known.frozen[:0]

    @property
    def reference_(self) -> tuple[FloatArray, LabelArray]:
        """(n, d) frozen features of the known pictures, and their (n,) classes."""
        return self.known_.frozen, self.known_.labels

    @property
    def named_(self) -> tuple[Naming, ...]:
        """The history, oldest first."""
        return self._history.namings

    @property
    def without_pictures(self) -> tuple[str, ...]:
        """The classes that are known by their names only."""
        return self._fitted().without_pictures()

    @property
    def from_features(self) -> bool:
        """Whether frozen features are all that the model sees of a picture, and all that it needs to learn of one."""
        return not needs_pictures(self.model.point, self.model.views, self.rejector_)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write classifier, detector and history (not the backbone) to a folder, replacing an older one in one step.

        Unless the model works :attr:`from_features`, the known pictures are in it as squares for all to see.
        ``overwrite`` and errors are those of :meth:`FewShotClassifier.save`.
        """
        save_artifact(as_path(folder, "folder"), OPEN_WORLD_KIND, *self.to_artifact(), overwrite)

    @classmethod
    def load(
        cls: type[World], folder: str | Path, backbone: Backbone | None = None, trusted: Mapping[str, Any] = NOTHING
    ) -> World:
        """Read back what :meth:`save` wrote; arguments and errors as of :meth:`FewShotClassifier.load`."""
        with open_artifact(as_path(folder, "folder"), OPEN_WORLD_KIND) as (meta, files):
            return cls.from_artifact(files, meta, backbone, str(folder), trusted)

    def foreign_parts(self) -> dict[str, Any]:
        """Parts that are not the library's own, by name: what :meth:`load` wants as ``trusted``."""
        detectors = {} if self.detector == AUTO else dict([find_detector(self.detector)])
        if self.rejector_ is not None:
            detectors[self.rejector_.chosen.detector] = self.rejector_.chosen.part
        return self.model.foreign_parts() | {name: part for name, part in detectors.items() if name not in DETECTORS}

    def to_artifact(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """(files, meta) for :func:`save_artifact`."""
        files, meta = write_world(self.model, Saved(self._fitted(), self._history.steps, self.shown_))
        detector = AUTO if self.detector == AUTO else find_detector(self.detector)[0]
        return files, meta | {"alpha": self.alpha, "detector": detector, "per_class": self.per_class}

    @classmethod
    def from_artifact(
        cls: type[World],
        files: dict[str, bytes],
        meta: dict[str, Any],
        backbone: Backbone | None,
        where: str,
        trusted: Mapping[str, Any] = NOTHING,
    ) -> World:
        """The inverse of :meth:`to_artifact`."""
        model, saved = load_world(files, meta, backbone, where, trusted)
        world = cls(model, read_detector(meta["detector"], trusted, where), meta["alpha"], meta.get("per_class", False))
        world._begin(saved.now.rejector, saved.now.known)
        world._history, world.shown_ = History(saved.steps), saved.shown
        return world

    def _fitted(self) -> Fitted:
        rejector, known = self.rejector_, self.known_
        return Fitted(self.model.model_, self.model.label_space_, rejector, known)

    def _become(self, fitted: Fitted) -> None:
        self.model.model_, self.model.label_space_, self.rejector_, self.known_ = fitted


def _fitted_files(model: FewShotClassifier, fitted: Fitted, prefix: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    own, meta = model.collect_files(fitted.model, fitted.names)
    files, rejector = {f"{prefix}{name}": data for name, data in own.items()}, fitted.rejector
    meta["rejector"] = None
    if rejector is not None:
        files[f"{prefix}{REJECTOR}"] = safetensors.torch.save(rejector.to_tensors())
        meta["rejector"] = rejector.about()
    return files, meta


def _read_known(files: dict[str, bytes], reference: Mapping[str, Any]) -> KnownPictures:
    squares: list[bytes] = []
    for i in count():
        if _pictures(i) not in files:
            break
        stored = safetensors.numpy.load(files[_pictures(i)])
        starts = [0, *stored["ends"].tolist()]  # none but the first where a class came by its name only
        squares += [stored["png"][start:end].tobytes() for start, end in pairwise(starts)]
    pictures = decode_squares(squares, [f"known picture {i}" for i in range(len(squares))]) if squares else None
    return KnownPictures(reference["features"], reference["labels"], pictures, reference.get("losses"))


def _losses(i: int) -> str:
    return f"losses-before-{i}"


def _pictures(i: int) -> str:
    return f"pictures-{i}.safetensors"


def _pack(squares: list[bytes]) -> bytes:
    ends = np.cumsum([len(square) for square in squares], dtype=np.int64)
    return safetensors.numpy.save({"png": np.frombuffer(b"".join(squares), np.uint8), "ends": ends})
