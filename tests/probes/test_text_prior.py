"""The text-informed probe: its optimum against another solver, its two ends, classes that have a name only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import text_mean
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.probes.softmax import SoftmaxProblem, centre_rows
from clip_fewshot.probes.solver import solve
from clip_fewshot.probes.text_mean import DISTRUST, USUAL_SPREAD, fit_mean, fit_scale
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.probes.twins import measure_likeness, twin_logits
from clip_fewshot.types import FloatArray, LabelArray

C, D = 6, 32


class World:
    """Classes with a direction each, pictures around them, and texts of some truth."""

    def __init__(self, truth: float, seed: int = 0, spread: float = 1.0) -> None:
        self.generator = np.random.default_rng(seed)
        self.centres = self.generator.normal(size=(C, D))
        self.texts = unit_rows(truth * self.centres + (1 - truth) * self.generator.normal(size=(C, D)))
        self.spread = spread

    def pictures(self, shots: int) -> tuple[FloatArray, LabelArray]:
        labels = np.repeat(np.arange(C), shots)
        return self.centres[labels] + self.spread * self.generator.normal(size=(len(labels), D)), labels

    @property
    def by_label(self) -> Mapping[int, FloatArray]:
        return dict(enumerate(self.texts))


def accuracies(world: World, shots: int, draws: int = 12) -> tuple[float, float, float]:
    """(texts alone, pictures alone, both), mean over support sets."""
    found = []
    for _ in range(draws):
        X, y = world.pictures(shots)
        asked, truth = world.pictures(50)
        alone = LinearProbe().fit(X, y).predict(asked)
        both = TextPriorProbe(world.by_label).fit(X, y).predict(asked)
        found.append([np.mean(p == truth) for p in ((asked @ world.texts.T).argmax(axis=1), alone, both)])
    texts, pictures, joined = np.mean(found, axis=0)
    return float(texts), float(pictures), float(joined)


def test_the_solver_finds_the_optimum_around_an_offset() -> None:
    world = World(0.6)
    X, y = world.pictures(3)
    rows = centre_rows(unit_rows(X)).rows
    offset = 5 * unit_rows(X) @ world.texts.T

    def cost(flat: FloatArray) -> tuple[float, FloatArray]:
        weights = flat.reshape(C, -1)
        logits = offset + rows @ weights.T
        losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
        slope = 20.0 * (np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) - np.eye(C)[y]).T @ rows + weights
        return float(20.0 * losses.sum() + (weights**2).sum() / 2), slope.ravel()

    slow = minimize(
        cost, np.zeros(C * rows.shape[1]), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
    )
    found = solve(SoftmaxProblem.from_rows(rows, y, C, offset), 20.0)
    assert found.objective[0] == pytest.approx(slow.fun, rel=1e-6)
    np.testing.assert_allclose(found.weights[0, :, :-1], slow.x.reshape(C, -1), atol=5e-3)
    assert (found.weights[0, :, -1] == 0).all()  # there is no intercept


def test_texts_that_are_true_help_most_where_pictures_are_fewest() -> None:
    gains = []
    for shots in (1, 4):
        texts, pictures, both = accuracies(World(0.5), shots)
        assert both > max(texts, pictures) - 0.005
        gains.append(both - pictures)
    assert gains[0] > gains[1] > 0


def test_texts_that_say_nothing_do_little_harm() -> None:
    for shots in (2, 8):
        _, pictures, both = accuracies(World(0.0), shots)
        assert both > pictures - 0.01


def test_hopeless_pictures_leave_the_texts() -> None:
    texts, pictures, both = accuracies(World(0.8, spread=6.0), 4)
    assert pictures < texts - 0.05
    assert both > texts - 0.02


def test_probabilities_are_about_right_at_one_shot() -> None:
    world = World(0.5, spread=1.5)
    X, y = world.pictures(1)
    asked, truth = world.pictures(300)
    probe = TextPriorProbe(world.by_label).fit(X, y)
    p = probe.predict_proba(asked)
    assert abs(p.max(axis=1).mean() - np.mean(p.argmax(axis=1) == truth)) < 0.1


def test_without_texts_it_is_the_linear_probe() -> None:
    for labels in (np.repeat(["a", "b"], 9), np.repeat([3, 1, 2], 6)):
        X = np.random.default_rng(0).normal(size=(18, 5))
        plain, probe = LinearProbe().fit(X, labels), TextPriorProbe().fit(X, labels)
        assert probe.predict(X).tolist() == plain.predict(X).tolist()
        np.testing.assert_allclose(probe.predict_proba(X), plain.predict_proba(X), rtol=1e-12)


def test_the_scale_of_texts_is_the_likeliest_where_there_are_many_pictures_and_usual_where_there_are_few() -> None:
    world = World(0.6)
    X, y = world.pictures(400)
    logits = unit_rows(X) @ world.texts.T
    scales = np.geomspace(0.1, 1000, 4001)
    losses = [float(np.mean(logsumexp(s * logits, axis=1) - s * logits[np.arange(len(y)), y])) for s in scales]
    assert fit_scale(logits, y) == pytest.approx(scales[int(np.argmin(losses))], rel=0.03)
    few = logits[:: 400 * C // 2]
    spread = np.sqrt(((few - few.mean(axis=1, keepdims=True)) ** 2).mean())
    assert 0.2 * USUAL_SPREAD < fit_scale(few, np.array([0, C // 2])) * spread < 5 * USUAL_SPREAD


def test_texts_are_believed_less_where_pictures_say_more() -> None:
    world = World(0.5)
    X, y = world.pictures(12)
    unit = unit_rows(X)
    mean = fit_mean(unit, y, world.texts)
    assert mean.scale < 0.9 * fit_scale(unit @ world.texts.T, y)
    assert 0 < mean.belief < 1


def test_before_any_evidence_the_doubt_is_a_few_pictures() -> None:
    """Texts at a right angle to all pictures say nothing: each belief is as likely as the next, but for the doubt."""
    world = World(0.5)
    for shots in (1, 3):
        X, y = world.pictures(shots)
        rows, texts = np.hstack([X, np.zeros((len(X), 1))]), np.zeros((C, D + 1))
        texts[:, -1] = 1
        none = 1 + DISTRUST / len(y)
        assert fit_mean(unit_rows(rows), y, texts).belief == pytest.approx(3 / (3 + none), rel=1e-6)


def test_the_mean_moves_little_when_rows_move_little() -> None:
    world = World(0.5)
    X, y = world.pictures(2)
    unit = unit_rows(X)
    near = unit_rows(X + 1e-9 * world.generator.normal(size=X.shape))
    first, second = fit_mean(unit, y, world.texts), fit_mean(near, y, world.texts)
    np.testing.assert_allclose(first.weights, second.weights, rtol=0.02, atol=0.02)
    assert first.scale == pytest.approx(second.scale, rel=1e-3)


def test_a_class_may_have_a_name_only() -> None:
    world = World(0.8, spread=0.5)
    X, y = world.pictures(4)
    known = y < C - 1
    asked, truth = world.pictures(30)
    probe = TextPriorProbe(world.by_label).fit(X[known], y[known])
    assert probe.classes_.tolist() == [*range(C)]
    assert np.mean(probe.predict(asked)[truth == C - 1] == C - 1) > 0.6
    fewer = TextPriorProbe({k: world.texts[k] for k in range(C - 1)}).fit(X[known], y[known])
    later = fewer.extend(np.empty((0, D)), C - 1, text=world.texts[-1])
    assert later.logits(asked).tobytes() == probe.logits(asked).tobytes()
    assert later.logits(asked)[:, :-1].tobytes() == fewer.logits(asked).tobytes()


def test_pictures_sharpen_a_class_that_had_a_name() -> None:
    world = World(0.4)
    X, y = world.pictures(4)
    known = y < C - 1
    asked, truth = world.pictures(60)
    fewer = TextPriorProbe({k: world.texts[k] for k in range(C - 1)}).fit(X[known], y[known])
    named = fewer.extend(np.empty((0, D)), C - 1, text=world.texts[-1])
    seen = fewer.extend(X[~known], C - 1, X[known], text=world.texts[-1])
    assert np.mean(seen.predict(asked) == truth) > np.mean(named.predict(asked) == truth)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({0: np.eye(D)[0]}, "none for 1, 2, 3, 4, 5"),
        ({k: np.eye(D + 1)[k] for k in range(C)}, "one model"),
        ({k: np.full(D, np.nan) for k in range(C)}, "texts: expected finite"),
    ],
)
def test_mistakes_are_named(texts: Mapping[int, FloatArray], words: str) -> None:
    X, y = World(0.5).pictures(2)
    with pytest.raises(UsageError, match=words):
        TextPriorProbe(texts).fit(X, y)


def test_a_new_class_needs_something() -> None:
    world = World(0.5)
    probe = TextPriorProbe(world.by_label).fit(*world.pictures(2))
    with pytest.raises(UsageError, match="give pictures or a text of it"):
        probe.extend(np.empty((0, D)), "new")
    with pytest.raises(UsageError, match="known pictures"):
        probe.extend(world.pictures(1)[0][:1], "new")


def test_pictures_that_are_all_the_same_leave_the_texts() -> None:
    world = World(0.8)
    X = np.ones((2 * C, D))
    probe = TextPriorProbe(world.by_label).fit(X, np.repeat(np.arange(C), 2))
    asked, truth = world.pictures(30)
    assert np.isfinite(probe.logits(asked)).all()
    assert np.mean(probe.predict(asked) == truth) > 0.5


def test_left_out_logits_are_those_of_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, with one belief and one penalty in the mean; and no picture speaks for itself there."""
    monkeypatch.setattr(text_mean, "BELIEFS", (0.5,))
    monkeypatch.setattr(text_mean, "PENALTIES", (30.0,))
    world = World(0.5)
    X, y = world.pictures(3)
    probe = TextPriorProbe(world.by_label).fit(X, y)
    unit = unit_rows(X)
    weights = probe.coef_ - probe.scale_ * world.texts
    rows = unit - unit.mean(axis=0)
    logits = probe.scale_ * unit @ world.texts.T + rows @ weights.T
    expected = twin_logits(logits, weights, rows, y, probe.C_, measure_likeness(unit, y))
    found = probe.left_out_logits()
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert log_losses(found, y).mean() > log_losses(probe.logits(X), y).mean()


def test_names_that_are_one_text_leave_the_pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over penalties without any text: the scale of what does not spread must not be beyond all bounds."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 40)) + 3 * np.eye(40)[np.repeat(np.arange(4), 3)], np.repeat(np.arange(4), 3)
    one = rng.normal(size=40)
    found = TextPriorProbe(dict.fromkeys(range(4), one)).fit(X, y)
    assert found.scale_ == 0.0
    monkeypatch.setattr(text_mean, "BELIEFS", (0.0,))
    alone = TextPriorProbe({j: rng.normal(size=40) for j in range(4)}).fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X + 0.1), alone.predict_proba(X + 0.1), atol=1e-6)
    assert found.left_out_logits() == pytest.approx(alone.left_out_logits(), abs=1e-5)
