"""Load a backbone by whatever names it: an official name, the shipped model, a file, a module."""

from __future__ import annotations

from clip_fewshot.backbones.architectures import ARCHITECTURES, CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone

__all__ = ["ARCHITECTURES", "Backbone", "CLIPConfig", "build_backbone"]
