"""Rivals as foreign parts: each against its formula, by hand or slowly, and through the public sockets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import CutState
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import ArtifactError, DivergedError, UsageError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.few_shot.approach import find_approach
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.objectives import read_class_texts
from clip_fewshot.geometry import unit_rows
from clip_fewshot.runtime.rng import generator
from clip_fewshot.testing import check_probe
from clip_fewshot.types import FloatArray
from experiments import peers
from experiments.peers import coop, task_res
from experiments.peers.clap import ClapProbe
from experiments.peers.clip_adapter import ClipAdapterProbe
from experiments.peers.coop import Prompts, learn_contexts
from experiments.peers.lp_plus_plus import LPPlusPlusProbe
from experiments.peers.task_res import TaskResProbe
from experiments.peers.tip_adapter_f import TipAdapterFProbe
from experiments.peers.training import count_epochs

C, SHOTS, D = 3, 4, 8
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(C, D))
LABELS = np.repeat(np.arange(C), SHOTS)
N = len(LABELS)
SUPPORT = unit_rows(1 + CENTRES[LABELS] + 0.5 * RNG.normal(size=(N, D)))
QUERIES = unit_rows(1 + CENTRES[LABELS] + 0.5 * RNG.normal(size=(N, D)))
ROWS = unit_rows(CENTRES + 0.5 * RNG.normal(size=(C, D)))
TEXTS = dict(enumerate(ROWS))
SCALE = 20.0
CONSTANTS = ("TIP_ADAPTER_F", "CLIP_ADAPTER", "TASK_RES", "LP_PLUS_PLUS", "CLAP")


def fitted(kind: Callable[..., Any], **options: Any) -> Any:
    return kind(texts=TEXTS, scale=SCALE, **options).fit(SUPPORT, LABELS)


def loss(logits: FloatArray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(N), LABELS].mean())


def slope(value: Callable[[FloatArray], float], at: FloatArray, h: float = 1e-5) -> FloatArray:
    """The gradient by central differences, slowly."""
    found = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[place] = h
        found[place] = (value(at + step) - value(at - step)) / (2 * h)
    return found


def same(found: FloatArray, expected: FloatArray, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", peers.PEERS)
def test_each_keeps_the_contract_of_a_probe(name: str) -> None:
    kind: Any = peers.PEERS[name].probe

    class Short(kind):  # type: ignore[misc]
        def __init__(self, texts: Any = None) -> None:
            super().__init__(texts, epochs=20)

    check_probe(Short)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(TipAdapterFProbe, {"alpha": 0.0}), (ClipAdapterProbe, {"ratio": 0.0, "epochs": 3})]
    + [(kind, {"epochs": 0}) for kind in (TaskResProbe, ClapProbe)],
)
def test_each_begins_at_zero_shot_or_is_it_at_its_end(kind: Callable[..., Any], options: dict[str, Any]) -> None:
    same(fitted(kind, **options).logits(QUERIES), SCALE * QUERIES @ ROWS.T)


def cache_logits(keys: FloatArray, rows: FloatArray, alpha: float = 1.0, beta: float = 5.5) -> FloatArray:
    logits = SCALE * rows @ ROWS.T
    for i, row in enumerate(rows):
        for key, label in zip(keys, LABELS, strict=True):
            logits[i, label] += alpha * np.exp(-beta * (1 - row @ key))
    return logits


def test_tip_adapter_f_begins_at_tip_adapter_and_takes_a_step_of_adamw() -> None:
    same(fitted(TipAdapterFProbe, epochs=0, alpha=2.0, beta=3.0).logits(QUERIES), cache_logits(SUPPORT, QUERIES, 2, 3))
    gradient = slope(lambda keys: loss(cache_logits(keys, SUPPORT)), SUPPORT)
    stepped = SUPPORT * (1 - 1e-3 * 0.01) - 1e-3 * gradient / (np.abs(gradient) + 1e-4)
    probe = fitted(TipAdapterFProbe, epochs=1)
    same(probe.keys_, stepped)
    same(probe.logits(QUERIES), cache_logits(stepped, QUERIES), 1e-5)


def test_clip_adapter_takes_a_step_of_gradient_descent() -> None:
    start = fitted(ClipAdapterProbe, epochs=0, seed=5)
    assert start.down_.shape == (D, D // 4)

    def logits(down: FloatArray, up: FloatArray, rows: FloatArray) -> FloatArray:
        mixed = 0.2 * np.maximum(np.maximum(rows @ down, 0) @ up, 0) + 0.8 * rows
        return np.asarray(SCALE * unit_rows(mixed) @ ROWS.T)

    same(start.logits(QUERIES), logits(start.down_, start.up_, QUERIES))
    down = slope(lambda at: loss(logits(at, start.up_, SUPPORT)), start.down_) + 5e-4 * start.down_
    up = slope(lambda at: loss(logits(start.down_, at, SUPPORT)), start.up_) + 5e-4 * start.up_
    rate = 2e-3 * (100 / SCALE) ** 2
    probe = fitted(ClipAdapterProbe, epochs=1, seed=5)
    same(probe.down_, start.down_ - rate * down, 1e-8)
    same(probe.up_, start.up_ - rate * up, 1e-8)
    assert np.abs(rate * up).max() > 1e-4


def test_task_res_takes_a_step_of_adam_on_residuals_of_long_texts() -> None:
    texts = 10 * SCALE / 100 * ROWS

    def weights(residuals: FloatArray) -> FloatArray:
        return np.asarray(SCALE * unit_rows(texts + 0.5 * residuals))

    gradient = slope(lambda r: loss(SUPPORT @ weights(r).T), np.zeros_like(ROWS))
    same(fitted(TaskResProbe, epochs=1).coef_, weights(-2e-3 * gradient / (np.abs(gradient) + 1e-8)))


def test_clap_weighs_its_penalty_by_what_zero_shot_knows_and_takes_two_steps_with_momentum() -> None:
    texts, start = 10 * SCALE / 100 * ROWS, softmax(SCALE * SUPPORT @ ROWS.T, axis=1)
    penalties = np.array([start[j * SHOTS : (j + 1) * SHOTS, j].mean() for j in range(C)])

    def objective(rows: FloatArray) -> float:
        held = (penalties * ((rows - texts) ** 2).sum(axis=1)).mean()
        return loss(SCALE * SUPPORT @ unit_rows(rows).T) + float(held)

    first = slope(objective, texts)
    rows = texts - 0.1 * first
    rows = rows - 0.05 * (0.9 * first + slope(objective, rows))  # half way down a cosine of two epochs
    probe = fitted(ClapProbe, epochs=2)
    same(probe.penalties_, penalties)
    same(probe.coef_, SCALE * unit_rows(rows))


def test_lp_plus_plus_begins_at_sums_and_agreement_and_moves_by_step_sizes_from_the_data() -> None:
    text_logits = SUPPORT @ ROWS.T
    rows = np.stack([SUPPORT[j == LABELS].sum(axis=0) for j in range(C)])
    alphas = np.full(C, 2.5 * SCALE * np.mean([text_logits[i, j] for i, j in enumerate(LABELS)]))
    same(fitted(LPPlusPlusProbe, epochs=0).coef_, rows + alphas[:, None] * ROWS)
    rate = 4 * N / np.linalg.eigvalsh(SUPPORT.T @ SUPPORT).max()
    text_rate = N / (4 * (text_logits**2).sum(axis=0).max())
    intercepts, speeds = np.zeros(C), [np.zeros((C, D)), np.zeros(C)]
    for step in range(1, 13):
        error = (softmax(SUPPORT @ rows.T + intercepts + alphas * text_logits, axis=1) - np.eye(C)[LABELS]) / N
        speeds = [0.9 * speeds[0] + error.T @ SUPPORT, 0.9 * speeds[1] + error.sum(axis=0)]
        rows, intercepts = rows - rate * speeds[0], intercepts - rate * speeds[1]
        if step == 10:
            alphas = alphas - text_rate * (error * text_logits).sum(axis=0)
    probe = fitted(LPPlusPlusProbe, epochs=12)
    same(probe.alphas_, alphas)
    same(probe.intercept_, intercepts)
    same(probe.coef_, rows + alphas[:, None] * ROWS)


@pytest.mark.parametrize("name", peers.PEERS)
def test_texts_enter_by_label_and_a_class_may_come_by_its_text_alone(name: str) -> None:
    kind: Any = peers.PEERS[name].probe
    plain = kind(TEXTS).fit(SUPPORT, LABELS)
    named = kind({f"class {j}": row for j, row in TEXTS.items()}).fit(
        SUPPORT, np.char.add("class ", LABELS.astype(str))
    )
    np.testing.assert_array_equal(named.logits(QUERIES), plain.logits(QUERIES))
    assert not np.allclose(
        kind(dict(enumerate(ROWS[::-1]))).fit(SUPPORT, LABELS).logits(QUERIES), plain.logits(QUERIES)
    )
    new = unit_rows(np.random.default_rng(1).normal(size=D))
    more = plain.extend(np.zeros((0, D)), C, text=7 * new)
    assert more.logits(np.vstack([ROWS, new]))[:, C].argmax() == C
    np.testing.assert_array_equal(more.logits(QUERIES)[:, :C], plain.logits(QUERIES))
    with pytest.raises(UsageError, match="text of each class, got none for 2"):
        kind({0: ROWS[0], 1: ROWS[1]}).fit(SUPPORT, LABELS)
    with pytest.raises(UsageError, match="text of each class"):
        plain.extend(QUERIES, C)


def test_the_scale_of_the_texts_is_that_under_which_the_shots_are_likeliest() -> None:
    scale = TaskResProbe(TEXTS).fit(SUPPORT, LABELS).scale_
    best = min(np.linspace(1, 60, 60), key=lambda s: loss(s * SUPPORT @ ROWS.T))
    assert abs(np.log(scale / best)) < 0.3  # drawn to a usual one


def test_epochs_grow_with_the_shots_as_published() -> None:
    labels = [torch.arange(3).repeat_interleave(shots) for shots in (1, 2, 4, 8, 16)]
    assert [count_epochs(each, coop.EPOCHS) for each in labels] == [50, 100, 100, 200, 200]
    assert [count_epochs(each, task_res.EPOCHS) for each in labels] == [100, 100, 100, 200, 200]


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(DivergedError, match="finite loss"):
        TaskResProbe(TEXTS, scale=np.inf).fit(SUPPORT, LABELS)


@pytest.mark.parametrize("constant", CONSTANTS)
def test_each_goes_through_the_classifier_reads_its_texts_and_is_loaded_again(
    constant: str, tiny: Backbone, split: OpenWorldSplit, tmp_path: Path
) -> None:
    approach = find_approach(f"python:experiments.peers:{constant}")
    assert peers.PEERS[approach.name] is approach
    model = FewShotClassifier(tiny, approach).fit(split.support)
    model.save(tmp_path / "model")
    loaded = FewShotClassifier.load(tmp_path / "model", tiny, trusted=model.foreign_parts())
    asked = split.support.subset(range(5))
    np.testing.assert_array_equal(loaded.predict_proba(asked), model.predict_proba(asked))
    with pytest.raises(ArtifactError, match="which a file must not import"):
        FewShotClassifier.load(tmp_path / "model", tiny)


def test_the_texts_of_the_classes_reach_a_foreign_probe(tiny: Backbone, split: OpenWorldSplit) -> None:
    model = FewShotClassifier(tiny, peers.TASK_RES, options={"epochs": 0, "scale": SCALE}).fit(split.support)
    probe: Any = model.model_.probe
    same(probe.coef_, SCALE * read_class_texts(tiny, split.support.label_space.names, ()))


def test_coop_with_the_words_as_context_is_the_text_of_those_words(tiny: Backbone) -> None:
    prompts = Prompts(tiny, ["ant", "water_lily"], n_context=3)
    words = tiny.text.token_embedding(tiny.tokenize("x x x")[0, 1:4])  # type: ignore[operator]
    with torch.no_grad():
        expected = F.normalize(tiny.encode_text(tiny.tokenize(["x x x ant.", "x x x water lily."])), dim=-1)
        same(prompts.encode(words).numpy(), expected.numpy(), 1e-5)
        assert not torch.allclose(prompts.encode(2 * words), expected, atol=1e-3)


def test_coop_takes_a_step_of_gradient_descent(tiny: Backbone, split: OpenWorldSplit) -> None:
    support, tower, scale = split.support.subset(range(0, len(split.support), 2)), tiny.text, tiny.logit_scale.exp()
    labels = torch.from_numpy(support.required_labels())
    unit = F.normalize(torch.from_numpy(encode_images(tiny, support).features), dim=-1)
    tokens = tiny.tokenize(["x " * 16 + f"{name}." for name in support.label_space.names])

    def texts(context: torch.Tensor) -> torch.Tensor:
        words = tower.token_embedding(tokens).clone()  # type: ignore[operator]
        words[:, 1:17] = context
        state = CutState(words + tower.positional_embedding, tower.ends(tokens))
        return F.normalize(tower.project(tower.advance(state, 0, tower.n_blocks)), dim=-1)

    drawn = generator(3, "CoOp").normal(0.0, 0.02, size=(16, tower.token_features))
    context = torch.tensor(drawn, dtype=torch.float32, requires_grad=True)
    value = F.cross_entropy(scale * unit @ texts(context).T, labels)
    (gradient,) = torch.autograd.grad(value, context)
    stepped = context - 2e-3 * (100 / scale) ** 2 * (gradient + 5e-4 * context)
    assert len(labels) <= 32
    same(learn_contexts(tiny, support, epochs=1, seed=3).weight.numpy(), texts(stepped).detach().numpy(), 1e-5)
    assert not torch.allclose(texts(context), texts(stepped), atol=1e-4)


def test_coop_lowers_the_loss_and_leaves_the_backbone_alone(tiny: Backbone, split: OpenWorldSplit) -> None:
    before, support = tiny.digest, split.support
    features, labels = (
        torch.from_numpy(encode_images(tiny, support).features),
        torch.from_numpy(support.required_labels()),
    )
    losses = [F.cross_entropy(learn_contexts(tiny, support, n)(features), labels).item() for n in (0, 5)]
    assert losses[1] < losses[0]
    assert tiny.digest == before
    assert all(parameter.grad is None for parameter in tiny.parameters())
    with pytest.raises(UsageError, match="CLIP's text transformer"):
        Prompts(SimpleNamespace(text=torch.nn.Identity()), ["ant"])  # type: ignore[arg-type]
