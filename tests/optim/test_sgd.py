"""Gradient descent with momentum against torch's own, and gone on with after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.trainer import StepReport
from clip_fewshot.optim.adamw import group_parameters
from clip_fewshot.optim.sgd import SGD
from tests.contrastive.pairs import CONFIG, patterns
from tests.contrastive.test_checkpoint import equal
from tests.optim.test_adamw import model


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_torchs(clip_norm: float | None, momentum: float) -> None:
    ours, theirs = model(), model()
    optimizer = SGD(group_parameters([(ours, 1e-1)], weight_decay=0.1), clip_norm, momentum=momentum)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.SGD(groups, lr=1e-1, momentum=momentum)
    start = [p.detach().clone() for p in ours.parameters()]
    for step in range(12):
        inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(step))
        theirs.zero_grad()
        theirs(inputs).square().sum().backward()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = other.grad.clone()  # one gradient for both: the network would amplify what they round
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
        for group in reference.param_groups:
            group["lr"] = 1e-1 * 0.9**step
        reference.step()
        optimizer.step(0.9**step)
    for mine, other, before in zip(ours.parameters(), theirs.parameters(), start, strict=True):
        assert not torch.equal(mine, before)
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)  # 12 steps of float32


def test_a_parameter_without_gradient_stays() -> None:
    trained = model()
    optimizer = SGD(group_parameters([(trained, 1e-2)], weight_decay=0.1), 1.0)
    before = trained[2].weight.detach().clone()  # type: ignore[index]
    trained[0](torch.ones(2, 7)).sum().backward()  # type: ignore[index]
    optimizer.step(1.0)
    assert torch.equal(trained[2].weight, before)  # type: ignore[index]


def test_stopped_and_gone_on_with_it_ends_in_the_same_weights(tmp_path: Path) -> None:
    options = ContrastiveOptions(steps=6, learning_rate=0.1, optimizer="sgd", save_every=1)

    class StoppedError(Exception):
        pass

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise StoppedError

    whole = cf.train_contrastive(build_backbone(CONFIG), patterns(2), options)
    with pytest.raises(StoppedError):
        cf.train_contrastive(build_backbone(CONFIG), patterns(2), options, folder=tmp_path, on_step=stop)
    again = cf.train_contrastive(build_backbone(CONFIG), patterns(2), options, folder=tmp_path, resume=True)
    assert equal(whole, again)
    assert not equal(whole, build_backbone(CONFIG))
    other = ContrastiveOptions(steps=6, learning_rate=0.1, optimizer="sgd", save_every=1, momentum=0.5)
    with pytest.raises(cf.UsageError, match="momentum"):
        cf.train_contrastive(build_backbone(CONFIG), patterns(2), other, folder=tmp_path, resume=True)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"state_dtype": "bfloat16"}, {"text_weights": "bfloat16"}])
def test_options_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(cf.UsageError, match=r"momentum|optimizer"):
        ContrastiveOptions(steps=1, optimizer="sgd", **wrong)  # type: ignore[arg-type]
