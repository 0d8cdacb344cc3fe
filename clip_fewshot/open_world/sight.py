"""Pictures as models and their detectors see them, all in one pass through the frozen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import UsageError
from clip_fewshot.features.encode import image_features
from clip_fewshot.few_shot.approach import PROBE
from clip_fewshot.few_shot.model import TunedModel
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.runtime.arrays import as_rows
from clip_fewshot.tuning.last_layers import copy_last_layers
from clip_fewshot.types import FloatArray


class Observer(NamedTuple):
    """Who looks: models that were trained on one support set, by approach, and the detector around one of them."""

    models: Mapping[str, TunedModel]
    rejector: Rejector | None


class Sight(NamedTuple):
    """What an observer sees of n pictures.

    Attributes:
        features: approach -> (n, d); the untuned tower's stand under PROBE, whatever the models.
        judged: (n, d) under each judge of the detector that has a suffix of its own.
    """

    features: Mapping[str, FloatArray]
    judged: Sequence[FloatArray]

    @property
    def frozen(self) -> FloatArray:
        """(n, d) of the untuned tower."""
        return self.features[PROBE]


def look(backbone: Backbone, images: ImageDataset, observers: Sequence[Observer]) -> list[Sight]:
    """``images`` as every observer sees them."""
    frozen = {PROBE: (0, copy_last_layers(backbone.visual, 0))}
    plan = [
        (
            frozen | {name: (model.point.unfreeze, model.suffix) for name, model in observer.models.items()},
            observer.rejector.suffixes() if observer.rejector is not None else [],
        )
        for observer in observers
    ]
    suffixes = [suffix for own, judges in plan for suffix in (*own.values(), *judges)]
    columns = iter(image_features(backbone, images, suffixes))
    return [Sight({name: next(columns) for name in own}, [next(columns) for _ in judges]) for own, judges in plan]


def see_features(model: TunedModel, features: FloatArray, from_features: bool) -> Sight:
    """What ``model`` sees of pictures of which (n, d) frozen features are all that is there.

    Raises:
        UsageError: it does not work ``from_features``, or these are no finite rows.
    """
    if not from_features:
        raise UsageError(
            expected="a model on frozen features", got="one that looks further", fix="give the pictures", where="seen"
        )
    rows = as_rows(features, "features")
    return Sight({PROBE: rows, model.point.approach: rows}, [])
