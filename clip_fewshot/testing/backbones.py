"""The contract of a backbone."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Tower
from clip_fewshot.testing.contract import demand, run_checks

_TEXTS = ["a bee", "a photo of two bees and a flower"]


def check_backbone(backbone: Backbone) -> None:
    """Check a backbone: an object of :class:`Backbone`, such as a :class:`PairBackbone` of your own encoders.

    Raises:
        ContractError: names what does not hold.
    """
    demand(isinstance(backbone, Backbone), f"it is a {type(backbone).__name__}, and no Backbone")
    with torch.no_grad():
        run_checks(_CHECKS, backbone)


def build_inputs(backbone: Backbone) -> dict[str, tuple[Tower, Tensor]]:
    """Each tower with three pictures or two texts; of a model that reads no texts the one."""
    rng, size = np.random.default_rng(0), backbone.image_size
    pictures = [Image.fromarray(rng.integers(0, 256, (size + 3, size, 3), dtype=np.uint8)) for _ in range(3)]
    pixels = torch.stack([backbone.preprocess(picture) for picture in pictures]).to(backbone.device)
    inputs: dict[str, tuple[Tower, Tensor]] = {"image": (backbone.visual, pixels)}
    if backbone.reads_texts:
        inputs["text"] = backbone.text, backbone.trim(backbone.tokenize(_TEXTS)).to(backbone.device)
    return inputs


def features_lie_in_one_space(backbone: Backbone) -> None:
    """Pictures and texts, finite, (n, d), the same d."""
    inputs = {name: given for name, (_, given) in build_inputs(backbone).items()}
    pixels = inputs["image"]
    demand(pixels.shape[1:] == (3, backbone.image_size, backbone.image_size), "preprocess does not give image_size")
    encode = {"image": backbone.encode_image, "text": backbone.encode_text}
    for name, given in inputs.items():
        features = encode[name](given)
        demand(features.shape[1] == backbone.visual.out_features, f"{name} features have another width")
        demand(features.dtype == torch.float32, f"{name} features are in {features.dtype}, not in float32")
        demand(features.isfinite().all(), f"{name} features are not finite")
        demand(not torch.allclose(features[0], features[1]), f"all {name} features are the same")


def an_input_s_features_are_its_own(backbone: Backbone) -> None:
    """They do not depend on the batch: the model is in evaluation mode."""
    demand(not backbone.training, "it is in training mode: call eval() on it")
    for name, (tower, given) in build_inputs(backbone).items():
        alone = torch.cat([tower(given[i : i + 1]) for i in range(len(given))])
        demand(torch.allclose(alone, tower(given), rtol=1e-3, atol=1e-4), f"{name} features depend on the batch")


def every_cut_goes_on_to_the_same_features(backbone: Backbone) -> None:
    """What "the last n layers" relies on: the part before a cut, then its suffix, is the whole tower."""
    for name, (tower, given) in build_inputs(backbone).items():
        demand(tower.n_blocks >= 1, f"the {name} tower has no block")
        whole, start = tower(given), tower.embed(given)
        for n in sorted({0, 1, tower.n_blocks}):
            state = tower.cut(tower.advance(start, 0, tower.n_blocks - n), n)
            found = tower.suffix(n)(state)
            same = torch.allclose(found, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
            demand(same, f"the last {n} layers of the {name} tower do not go on to its features")


def suffixes_train_by_themselves(backbone: Backbone) -> None:
    """A suffix is a copy with gradients; the backbone has the same weights afterwards."""
    before = backbone.digest
    for name, (tower, given) in build_inputs(backbone).items():
        state, suffix = tower.cut(tower.advance(tower.embed(given), 0, tower.n_blocks - 1), 1), tower.suffix(1)
        with torch.enable_grad():
            torch.autograd.backward(suffix(state).square().sum())
        slopes = [(p, p.grad) for p in suffix.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        demand(slopes, f"no parameter of the last layer of the {name} tower trains")
        for parameter, slope in slopes:
            parameter.sub_(slope)
    demand(backbone.digest == before, "training a suffix changes the backbone")


_CHECKS = (
    features_lie_in_one_space,
    an_input_s_features_are_its_own,
    every_cut_goes_on_to_the_same_features,
    suffixes_train_by_themselves,
)
