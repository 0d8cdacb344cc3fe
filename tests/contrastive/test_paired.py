"""Pairs trained on stored states: the same loss as the long way, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_fewshot.contrastive.paired import EpochReport, PairedOptions, train_paired
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import DataError, DivergedError, UsageError
from clip_fewshot.losses import symmetric_cross_entropy
from tests.backbones.encoders import pair

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def captioned(digits: ImageDataset) -> ImageDataset:
    """30 digits, each with two captions of its own, but for two pairs of pictures that share all of theirs."""
    some = digits.subset(np.repeat(np.arange(30), 2))
    numbers = [i if i not in (28, 29) else i - 28 for i in range(30)]
    captions = tuple(f"{start} {WORDS[n % 10]} {'z' * (n // 10)}" for n in numbers for start in ("a", "the"))
    return replace(some, captions=captions)


@pytest.mark.parametrize(("image", "text"), [(0, 0), (2, 0), (1, 3)])
def test_the_loss_is_that_of_the_pair_itself(captioned: ImageDataset, image: int, text: int) -> None:
    both = pair(image, text)
    single = captioned.subset(np.arange(0, 60, 2))  # one caption each, so that no draw matters
    pixels = torch.stack([both.preprocess(single.open(i)) for i in range(30)])
    tokens = both.tokenize(list(single.captions or ()))
    with torch.no_grad():
        rows = [F.normalize(side) for side in (both.encode_image(pixels), both.encode_text(tokens))]
        ids = torch.tensor([(single.captions or ()).index(caption) for caption in single.captions or ()])
        expected = symmetric_cross_entropy(both.logit_scale.exp() * rows[0] @ rows[1].T, ids)
    seen: list[EpochReport] = []
    dropouts = [module for module in both.modules() if isinstance(module, torch.nn.Dropout)]
    for dropout in dropouts:
        dropout.p = 0.0
    options = PairedOptions(epochs=1, learning_rate=1e-12, layers_rate=1e-12)
    train_paired(both, single, options, seen.append)
    assert seen[0].loss == pytest.approx(float(expected), abs=2e-3 if image or text else 1e-5)


@pytest.mark.parametrize(("image", "text"), [(0, 0), (1, 2)])
def test_only_what_is_unfrozen_moves_and_runs_repeat(captioned: ImageDataset, image: int, text: int) -> None:
    both, seen = pair(image, text), []
    before = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    options = PairedOptions(epochs=8, batch=10, learning_rate=1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = train_paired(both, captioned, options, seen.append)
    assert trained is both
    assert not both.training
    assert [report.epoch for report in seen] == list(range(8))
    assert seen[-1].loss < seen[0].loss
    moved = {name for name, tensor in both.state_dict().items() if not torch.equal(before[name], tensor)}
    allowed = {"logit_scale", "visual.projection.weight", "text.projection.weight"}
    allowed |= {f"visual.{n}" for n in both.visual.last_parameters(image)}
    allowed |= {f"text.{n}" for n in both.text.last_parameters(text)}
    assert moved <= allowed
    assert all(name in moved for name in allowed if name.endswith("weight"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        again = train_paired(pair(image, text), captioned, options)
    assert again.digest == both.digest


def test_what_cannot_be_trained_is_refused(captioned: ImageDataset) -> None:
    with pytest.raises(UsageError, match="use train_contrastive"):
        train_paired(pair(None, 0), captioned)
    with pytest.raises(DataError, match="a caption per row"):
        train_paired(pair(), replace(captioned, captions=None))
    with pytest.raises(DataError, match="two pictures or more"):
        train_paired(pair(), captioned.subset(np.arange(2)))
    with pytest.raises(UsageError, match="batch > 1"):
        PairedOptions(batch=1)
    broken = pair()
    broken.logit_scale.data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="in epoch 0"):
        train_paired(broken, captioned, PairedOptions(epochs=1))
