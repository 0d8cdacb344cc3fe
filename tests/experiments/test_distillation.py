"""The ablation runs, and both of its kinds see the same pairs."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

import clip_fewshot as cf
from experiments.distillation import Glyphs, Options, _displaced, main, table, tiny
from experiments.glyphs.pool import training_pool
from experiments.glyphs.vocabulary import Vocabulary

SMALL = Options(trainings=2, start=1, length=1, pairs=8, hands=2, noise=(0.5,))


def test_prints_both_accuracies_and_their_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.distillation.TEST_HANDS", 4)
    assert main(Options(**{**SMALL.__dict__, "json": True})) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert row["plain"]["n_test"] == row["distilled"]["n_test"] == 40
    assert row["difference"]["mean"] == pytest.approx(row["distilled"]["mean"] - row["plain"]["mean"])
    assert "\n50%  " in table(SMALL, found)


def test_batches_come_again() -> None:
    pool = training_pool(0, 2, 1, 1)
    vocabulary = Vocabulary(pool.classes)
    source = Glyphs(pool, vocabulary, tiny(vocabulary.size, 0), SMALL, seed=3, length=2, noise=0.5)
    first, second = (list(source.batches(0)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.tokens, b.tokens)
    (late,) = source.batches(0, start=1)
    assert torch.equal(late.images, first[1].images)


def test_displaced_captions_are_the_same_captions() -> None:
    texts = [str(i) for i in range(40)]
    for share, moved in ((0.0, 0), (0.25, 10), (1.0, 40)):
        after = _displaced(texts, share, np.random.default_rng(0))
        assert Counter(after) == Counter(texts)
        assert sum(a != b for a, b in zip(after, texts, strict=True)) == moved


@pytest.mark.parametrize("wrong", [{"trainings": 0}, {"length": 0}, {"start": -1}, {"noise": (1.5,)}])
def test_numbers_outside_their_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(cf.UsageError):
        Options(**wrong)
