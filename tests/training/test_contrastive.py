"""The contrastive trainer: it learns, repeats itself, keeps the mean of the weights and says what went wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.errors import DivergedError, UsageError
from clip_fewshot.training.contrastive import StepReport

CONFIG = cf.CLIPConfig(16, 16, 2, 32, 1, 8, 32, 1, 1, context_length=8, vocab_size=20)
N_CLASSES = 4


def pairs(steps: int, with_matches: bool = True) -> Iterator[cf.MatchedBatch]:
    """Four noisy patterns, each with a one-word caption; pictures of a pattern share its caption."""
    draws = torch.Generator().manual_seed(1)
    patterns = torch.randn(N_CLASSES, 3, 16, 16, generator=draws)
    for _ in range(steps):
        labels = torch.arange(8) % N_CLASSES
        images = patterns[labels] + 0.5 * torch.randn(8, 3, 16, 16, generator=draws)
        tokens = torch.stack([torch.tensor([17, int(label) + 1, 19, 0]) for label in labels])
        yield cf.MatchedBatch(images, tokens, labels[:, None] == labels[None] if with_matches else None, labels)


def train(options: cf.ContrastiveOptions, with_matches: bool = True) -> tuple[cf.Backbone, list[StepReport]]:
    reports: list[StepReport] = []
    backbone = cf.build_backbone(CONFIG, seed=0)
    return cf.train_contrastive(backbone, pairs(options.steps, with_matches), options, reports.append), reports


def excess(report: StepReport) -> float:
    return report.loss - report.floor


@pytest.mark.parametrize("n_classes", [0, N_CLASSES])
def test_learns_down_to_the_floor_of_the_batch(n_classes: int) -> None:
    _, reports = train(cf.ContrastiveOptions(80, learning_rate=3e-3, n_classes=n_classes))
    assert reports[-1].floor == pytest.approx(torch.tensor(2.0).log().item())
    assert excess(reports[-1]) < 0.05 < excess(reports[0])
    assert [report.step for report in reports] == list(range(80))


def test_the_classifier_speeds_up_the_start() -> None:
    plain = train(cf.ContrastiveOptions(12, learning_rate=3e-3))[1]
    helped = train(cf.ContrastiveOptions(12, learning_rate=3e-3, n_classes=N_CLASSES, class_until=1.0))[1]
    assert plain[0].loss == helped[0].loss  # the report is of the contrastive loss alone
    assert plain[-1].loss != helped[-1].loss


def test_equal_runs_end_in_equal_weights() -> None:
    options = cf.ContrastiveOptions(5, n_classes=N_CLASSES)
    first, second = (train(options)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_identity_targets_where_no_matches_are_given() -> None:
    _, reports = train(cf.ContrastiveOptions(2), with_matches=False)
    assert reports[0].floor == 0


def test_the_result_is_the_running_mean() -> None:
    kept: list[torch.Tensor] = []
    backbone = cf.build_backbone(CONFIG, seed=0)
    weights = [backbone.visual.proj.detach().clone()]

    def remember(report: StepReport) -> None:
        kept.append(backbone.visual.proj.detach().clone())

    cf.train_contrastive(backbone, pairs(4), cf.ContrastiveOptions(4, averaging=0.2), remember)
    mean = weights[0].double()
    for step, weight in enumerate(kept, start=1):
        decay = min(0.2, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight.double()
    assert torch.allclose(backbone.visual.proj.double(), mean, atol=1e-6)


def test_the_scale_stays_at_most_a_hundred() -> None:
    backbone = cf.build_backbone(CONFIG, seed=0)
    with torch.no_grad():
        backbone.logit_scale.fill_(4.7)
    _ = cf.train_contrastive(backbone, pairs(1), cf.ContrastiveOptions(1, averaging=0.0))
    assert float(backbone.logit_scale.detach().exp()) <= 100.01


def test_says_what_is_wrong() -> None:
    backbone = cf.build_backbone(CONFIG, seed=0)
    with pytest.raises(UsageError, match=r"expected 3 batches, got 2"):
        cf.train_contrastive(backbone, pairs(2), cf.ContrastiveOptions(3))
    unlabelled = [batch._replace(labels=None) for batch in pairs(1)]
    with pytest.raises(UsageError, match="labels"):
        cf.train_contrastive(backbone, unlabelled, cf.ContrastiveOptions(1, n_classes=2))
    with pytest.raises(UsageError):
        cf.ContrastiveOptions(0)
    broken = [batch._replace(images=batch.images * torch.nan) for batch in pairs(1)]
    with pytest.raises(DivergedError, match="finite"):
        cf.train_contrastive(backbone, broken, cf.ContrastiveOptions(1))
