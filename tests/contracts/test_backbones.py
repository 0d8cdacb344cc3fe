"""Backbones of every kind keep the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.testing.backbones import _CHECKS
from tests.backbones.encoders import pair

BACKBONES = {"pair": pair, "mini": lambda: load_backbone("mini", device="cpu")}


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return BACKBONES[request.param]()


@pytest.mark.parametrize("check", _CHECKS, ids=lambda check: check.__name__)
def test_contract(backbone: Backbone, check: Callable[..., None]) -> None:
    with torch.no_grad():
        check(backbone)
