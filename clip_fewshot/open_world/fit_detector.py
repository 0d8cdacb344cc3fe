"""From known pictures to a calibrated detector, in one step."""

from __future__ import annotations

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.model import Recipe
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.novelty import DetectorPart
from clip_fewshot.open_world.rejector import Rejector, fit_rejector
from clip_fewshot.open_world.select_detector import select_detector
from clip_fewshot.types import FloatArray


def fit_detector(
    backbone: Backbone,
    recipe: Recipe,
    data: SupportData,
    frozen: FloatArray,
    pictures: ImageDataset,
    detector: str | DetectorPart,
    per_class: bool,
) -> Rejector:
    """Choose the detector's features by hiding known classes in turn, and calibrate it; see :func:`select_detector`.

    Args:
        pictures: the support set, with the names of its classes.

    Raises:
        UsageError: one picture of some class only: nothing is left to calibrate on.
    """
    names = pictures.label_space.names
    choice = select_detector(
        backbone, recipe, data, frozen, pictures=pictures, detector=detector, names=names, per_class=per_class
    )
    if choice is None:
        fix = "add pictures, or use FewShotClassifier, which never says unknown"
        raise UsageError(
            expected="two pictures of each class or more", got="one of some class", fix=fix, where="support set"
        )
    return fit_rejector(backbone, recipe, data, frozen, choice, names=names, per_class=per_class)
