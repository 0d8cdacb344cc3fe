"""Learning from a few labelled pictures, and knowing what you have never seen.

Names are imported when first used, so that ``import clip_fewshot`` and every ``--help`` cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_fewshot.backbones.architectures import CLIPConfig as CLIPConfig
    from clip_fewshot.backbones.backbone import Backbone as Backbone
    from clip_fewshot.backbones.backbone import build_backbone as build_backbone
    from clip_fewshot.backbones.clip import load_backbone as load_backbone
    from clip_fewshot.classifier import FewShotClassifier as FewShotClassifier
    from clip_fewshot.config import FewShotConfig as FewShotConfig
    from clip_fewshot.data.captions import TEMPLATES as TEMPLATES
    from clip_fewshot.data.captions import CaptionGenerator as CaptionGenerator
    from clip_fewshot.data.dataset import ImageDataset as ImageDataset
    from clip_fewshot.data.dataset import read_dataset as read_dataset
    from clip_fewshot.data.sampling import split_open_world as split_open_world
    from clip_fewshot.errors import ClipFewShotError as ClipFewShotError
    from clip_fewshot.errors import DataError as DataError
    from clip_fewshot.errors import ResourceError as ResourceError
    from clip_fewshot.errors import UsageError as UsageError
    from clip_fewshot.heads.zero_shot import zero_shot_weights as zero_shot_weights
    from clip_fewshot.probes.logistic import LinearProbe as LinearProbe

__version__ = "0.1.0"

_HOME = {
    "CLIPConfig": "backbones.architectures",
    "Backbone": "backbones.backbone",
    "build_backbone": "backbones.backbone",
    "load_backbone": "backbones.clip",
    "FewShotClassifier": "classifier",
    "FewShotConfig": "config",
    "TEMPLATES": "data.captions",
    "CaptionGenerator": "data.captions",
    "ImageDataset": "data.dataset",
    "read_dataset": "data.dataset",
    "split_open_world": "data.sampling",
    "ClipFewShotError": "errors",
    "DataError": "errors",
    "ResourceError": "errors",
    "UsageError": "errors",
    "zero_shot_weights": "heads.zero_shot",
    "LinearProbe": "probes.logistic",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clip_fewshot' has no attribute {name!r}")
    return getattr(import_module(f"clip_fewshot.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
