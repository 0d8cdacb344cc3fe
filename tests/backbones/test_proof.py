"""The comparison that stands between a foreign model and its use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.proof import draw_trial_pictures, prove
from clip_fewshot.errors import ArtifactError
from tests.backbones.conftest import SMALL, shaken

Change = Callable[[Tensor], Tensor]


def halves(backbone: Backbone) -> tuple[Callable[[Image.Image], Tensor], Callable[[Sequence[str]], Tensor]]:
    return (
        lambda picture: backbone.encode_image(backbone.preprocess(picture)[None]),
        lambda texts: backbone.encode_text(backbone.tokenize(list(texts), truncate=True)),
    )


def test_a_model_passes_against_itself() -> None:
    backbone = shaken(build_backbone(SMALL["vit"]))
    images, texts = halves(backbone)
    prove(backbone, images, texts)
    prove(backbone, images, None)


@pytest.mark.parametrize("of", ["picture", "texts"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: f + 3e-5 * f.abs().max(), "that differ by"),
        (lambda f: f[:, :-1], "of shape"),
        (lambda f: f * torch.nan, "that differ by nan"),
        (lambda f: f @ f, "a model that its own library runs, got RuntimeError"),
    ],
)
def test_other_features_are_refused(of: str, change: Change, match: str) -> None:
    backbone = shaken(build_backbone(SMALL["vit"]))
    images, texts = halves(backbone)
    given = {"picture": images, "texts": texts}
    other = {**given, of: lambda inputs: change(given[of](inputs))}
    with pytest.raises(ArtifactError, match=match):
        prove(backbone, other["picture"], other["texts"])


def test_trial_pictures_are_no_squares_and_the_same_each_time() -> None:
    first, second = draw_trial_pictures(64), draw_trial_pictures(64)
    assert all(a.tobytes() == b.tobytes() and a.width != a.height for a, b in zip(first, second, strict=True))
    assert {a.width > a.height for a in first} == {True, False}
    assert {min(a.size) > 64 for a in first} == {True, False}
