"""The one-pass AdamW against torch's own, loop over tensors, with torch's own clipping."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from clip_fewshot.optim.adamw import AdamW, group_parameters


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3))


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
def test_equals_the_loop_over_tensors(clip_norm: float | None) -> None:
    ours, theirs = model(), model()
    optimizer = AdamW(group_parameters([(ours, 1e-2)], weight_decay=0.1), clip_norm)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6, foreach=False)
    for step in range(12):
        inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(step))
        theirs.zero_grad()
        theirs(inputs).square().sum().backward()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = other.grad.clone()  # one gradient for both: the network would amplify what they round
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * 0.9**step
        reference.step()
        optimizer.step(0.9**step)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)  # 12 steps of float32


def test_a_parameter_without_gradient_stays() -> None:
    trained = model()
    before = copy.deepcopy(trained.state_dict())
    optimizer = AdamW(group_parameters([(trained, 1e-2)], weight_decay=0.1), 1.0)
    trained[0](torch.ones(2, 7)).sum().backward()
    optimizer.step(1.0)
    after = trained.state_dict()
    assert not torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["2.weight"], before["2.weight"])
    optimizer.zero_grad()
    assert all(p.grad is None for p in trained.parameters())
    optimizer.step(1.0)  # nothing to do


def test_a_step_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from clip_fewshot.optim.adamw import AdamW, group_parameters; "
        "m = torch.nn.Linear(2, 2); o = AdamW(group_parameters([(m, 1e-3)], 0.1), 1.0); "
        "m(torch.ones(1, 2)).sum().backward(); o.step(1.0); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
