"""Closed forms against slow twins: what is left out is fitted again without it; and named libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_ridge import KernelRidge

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import (
    CacheProbe,
    CrossModalProbe,
    GaussianProbe,
    GaussianTextProbe,
    KernelRidgeProbe,
    LinearProbe,
    ProKeRProbe,
    PrototypeProbe,
    PrototypeTextProbe,
    TipAdapterProbe,
)
from clip_fewshot.probes.blend import fit_weights, usual_weight
from clip_fewshot.probes.cross_modal import split_pictures
from clip_fewshot.probes.support import draw_stand_ins, is_alone
from clip_fewshot.probes.text_mean import SPREAD_SD, fit_scale
from clip_fewshot.types import FloatArray, LabelArray

C, D = 5, 24
WITH_TEXT = [TipAdapterProbe, PrototypeTextProbe, GaussianTextProbe, ProKeRProbe, CrossModalProbe]
CLOSED = [CacheProbe, PrototypeProbe, GaussianProbe, KernelRidgeProbe, *WITH_TEXT[:-1]]


class Set:
    """Pictures around class directions, in mixed order, and texts near those directions."""

    def __init__(self, counts: tuple[int, ...], truth: float = 0.6, spread: float = 0.8) -> None:
        self.generator = np.random.default_rng(7)
        self.centres, self.spread = 0.5 + self.generator.normal(size=(C, D)), spread
        self.texts: Mapping[int, FloatArray] = dict(
            enumerate(truth * self.centres + (1 - truth) * self.generator.normal(size=(C, D)))
        )
        self.X, self.y = self.pictures(counts)

    def pictures(self, counts: tuple[int, ...]) -> tuple[FloatArray, LabelArray]:
        labels = self.generator.permutation(np.repeat(np.arange(C), counts))
        return self.centres[labels] + self.spread * self.generator.normal(size=(len(labels), D)), labels


def centred(logits: FloatArray) -> FloatArray:
    """Only differences between classes matter."""
    return logits - logits.mean(axis=1, keepdims=True)


def gaussians(X: FloatArray, y: LabelArray, asked: FloatArray) -> FloatArray:
    """As the formula is written, with an inverse and a loop."""
    means = np.array([X[y == j].mean(axis=0) for j in range(C)])
    within = X - means[y]
    scatter = within.T @ within
    precision = np.linalg.inv(scatter + np.trace(scatter) / (len(X) - 1) * np.eye(D))
    return np.array([[q @ precision @ m - m @ precision @ m / 2 for m in means] for q in asked])


def test_the_gaussians_are_a_discriminant_analysis_with_that_shrinkage() -> None:
    world = Set((6,) * C)
    probe = GaussianProbe().fit(world.X, world.y)
    asked = world.pictures((9,) * C)[0]
    share = D / (len(world.X) - 1 + D)  # (1 - a) S + a tr(S) / d I, in proportion to G + tr(G) / (n - 1) I
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share).fit(unit_rows(world.X), world.y)
    found, expected = centred(probe.logits(asked)), centred(oracle.decision_function(unit_rows(asked)))
    np.testing.assert_allclose(found / found.std(), expected / expected.std(), rtol=1e-6, atol=1e-8)


def test_gaussians_without_a_picture_are_those_of_the_others() -> None:
    world = Set((2, 3, 4, 6, 2))
    probe, unit = GaussianProbe().fit(world.X, world.y), unit_rows(world.X)
    rest = [np.delete(np.arange(len(unit)), i) for i in range(len(unit))]
    slow = np.concatenate([gaussians(unit[r], world.y[r], unit[i : i + 1]) for i, r in enumerate(rest)])
    found = probe.left_out_logits()
    assert found is not None
    np.testing.assert_allclose(centred(found), probe.scale_ * centred(slow), rtol=1e-6, atol=1e-8)


def kernel_ridge(probe: KernelRidgeProbe, rows: FloatArray, targets: FloatArray) -> KernelRidge:
    return KernelRidge(alpha=probe.ridge_, kernel="rbf", gamma=probe.beta_ / 2).fit(rows, targets)


@pytest.mark.parametrize("kind", [KernelRidgeProbe, ProKeRProbe])
def test_kernel_ridge_is_scikit_learns_on_what_the_start_leaves_over(kind: Any) -> None:
    world = Set((2, 3, 4, 6, 2))
    probe = (kind(world.texts) if kind.reads_texts else kind()).fit(world.X, world.y)
    unit, asked = unit_rows(world.X), unit_rows(world.pictures((4,) * C)[0])
    texts = unit_rows(np.stack([*world.texts.values()]))
    start = texts - texts.mean(axis=0) if kind.reads_texts else np.zeros((C, D))
    wanted = np.eye(C)[world.y] - 1 / C
    if kind.reads_texts:  # the multiple of the text logits that least squares gives
        slope = np.linalg.lstsq((unit @ start.T).reshape(-1, 1), wanted.ravel(), rcond=None)[0][0]
        start = slope * start
    keys, turned = unit_rows(unit - unit.mean(axis=0)), unit_rows(asked - unit.mean(axis=0))
    left = wanted - unit @ start.T
    slow = asked @ start.T + kernel_ridge(probe, keys, left).predict(turned)
    np.testing.assert_allclose(probe.logits(asked), probe.scale_ * slow, rtol=1e-6, atol=1e-8)
    found = probe.left_out_logits()
    for i in range(0, len(unit), 3):
        rest = np.delete(np.arange(len(unit)), i)
        one = unit[i] @ start.T + kernel_ridge(probe, keys[rest], left[rest]).predict(keys[i : i + 1])[0]
        np.testing.assert_allclose(found[i], probe.scale_ * one, rtol=1e-6, atol=1e-8)


def test_a_class_that_kernel_ridge_learns_later_is_regressed_on_all_rows() -> None:
    world = Set((4,) * C)
    old = world.y < C - 1
    probe = KernelRidgeProbe().fit(world.X[old], world.y[old])
    more = probe.extend(world.X[~old], C - 1)
    rows = np.concatenate([world.X[old], world.X[~old]])
    keys = unit_rows(unit_rows(rows) - probe.centre_)
    target = np.where(np.arange(len(rows)) < old.sum(), 0.0, 1.0) - 1 / (C - 1)
    slow = probe.scale_ * kernel_ridge(probe, keys, target).predict(keys)
    np.testing.assert_allclose(more.logits(rows)[:, -1], slow, rtol=1e-6, atol=1e-8)


def test_votes_and_prototypes_without_a_picture_are_those_of_the_others() -> None:
    world = Set((2, 3, 4, 6, 2))
    cache, prototype = CacheProbe().fit(world.X, world.y), PrototypeProbe().fit(world.X, world.y)
    unit = unit_rows(world.X)
    keys = unit_rows(unit - unit.mean(axis=0))
    votes, cosines = cache.left_out_logits(), prototype.left_out_logits()
    for i, key in enumerate(keys):
        others = [keys[(world.y == j) & (np.arange(len(keys)) != i)] for j in range(C)]
        near = [np.exp(cache.beta_ * (one @ key - 1)).mean() for one in others]
        means = [key @ unit_rows(one.mean(axis=0)) for one in others]
        np.testing.assert_allclose(votes[i], cache.scale_ * np.array(near), rtol=1e-9)
        np.testing.assert_allclose(cosines[i], prototype.scale_ * np.array(means), rtol=1e-9)


@pytest.mark.parametrize("kind", CLOSED)
def test_left_out_logits_are_there_at_one_picture_a_class_and_in_the_order_of_the_fit(kind: Any) -> None:
    world = Set((1, 1, 3, 1, 2))
    probe = (kind(world.texts) if getattr(kind, "reads_texts", False) else kind()).fit(world.X, world.y)
    logits = probe.left_out_logits()
    assert logits.shape == (len(world.X), C)
    assert np.isfinite(logits).all()
    assert np.mean(logits.argmax(axis=1) == world.y) > 0.6


@pytest.mark.parametrize("kind", CLOSED)
def test_what_left_out_logits_promise_is_what_new_pictures_get(kind: Any) -> None:
    for shots in (1, 4):
        world = Set((shots,) * C, truth=0.4, spread=1.2)
        probe = (kind(world.texts) if getattr(kind, "reads_texts", False) else kind()).fit(world.X, world.y)
        asked, truth = world.pictures((80,) * C)
        p = probe.predict_proba(asked)
        assert abs(p.max(axis=1).mean() - np.mean(p.argmax(axis=1) == truth)) < 0.2
        assert -np.log(p[np.arange(len(truth)), truth]).mean() < np.log(C)


def test_only_a_lone_picture_has_stand_ins() -> None:
    world = Set((1, 2, 3, 1, 2))
    alone = is_alone(world.y)
    drawn = draw_stand_ins(world.X, world.y)
    assert alone.sum() == 2
    assert (drawn[:, ~alone] == world.X[~alone]).all()
    assert not (drawn[:, alone] == world.X[alone]).any()
    assert len(draw_stand_ins(world.X[~alone], world.y[~alone])) == 1


def test_weights_are_the_minimum_that_another_optimiser_finds() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, C, 60)
    terms = [rng.normal(size=(2, 60, C)) + k * np.eye(C)[y] for k in (1.0, 0.3)]
    usual = [usual_weight(term) for term in terms]

    def cost(logs: FloatArray) -> float:
        draws = [
            log_softmax(sum(np.exp(w) * term[m] for w, term in zip(logs, terms, strict=True)), axis=1) for m in (0, 1)
        ]
        loss = -np.mean([draw[np.arange(60), y].sum() for draw in draws])
        return float(loss + ((logs - np.log(usual)) ** 2).sum() / (2 * SPREAD_SD**2))

    slow = minimize(cost, np.log(usual), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    weights, least = fit_weights(terms, y, usual)
    assert least == pytest.approx(slow.fun, rel=1e-9)
    np.testing.assert_allclose(weights, np.exp(slow.x), rtol=1e-4)
    alone = fit_weights([terms[0][:1]], y, [usual_weight(terms[0][0])])[0]
    assert alone[0] == pytest.approx(fit_scale(terms[0][0], y), rel=1e-4)


def test_a_term_that_misleads_counts_for_little() -> None:
    world = Set((12,) * C, spread=2.5)
    wrong = {k: world.texts[(k + 1) % C] for k in world.texts}
    true, false = (TipAdapterProbe(texts).fit(world.X, world.y) for texts in (world.texts, wrong))
    assert false.text_scale_ == 0 < true.text_scale_
    asked, truth = world.pictures((80,) * C)
    assert false.score(asked, truth) > CacheProbe().fit(world.X, world.y).score(asked, truth) - 0.02


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_texts_help_where_there_is_one_picture(kind: Any) -> None:
    found = []
    for spread in (1.5, 2.0):
        world = Set((1,) * C, spread=spread)
        asked, truth = world.pictures((80,) * C)
        found.append(kind(world.texts).fit(world.X, world.y).score(asked, truth))
        found[-1] -= kind().fit(world.X, world.y).score(asked, truth)
    assert min(found) > 0.02


@pytest.mark.parametrize(
    ("kind", "part"),
    [(TipAdapterProbe, CacheProbe), (PrototypeTextProbe, PrototypeProbe), (GaussianTextProbe, GaussianProbe)],
)
def test_without_texts_it_is_its_part(kind: Any, part: Any) -> None:
    world = Set((3,) * C)
    np.testing.assert_array_equal(
        kind().fit(world.X, world.y).logits(world.X), part().fit(world.X, world.y).logits(world.X)
    )


def test_a_text_is_one_more_row_and_never_held_out() -> None:
    world = Set((1,) * C)
    labels = np.append(world.y, np.arange(C))
    folds = split_pictures(labels, C)
    assert sorted(np.concatenate([held for _, held in folds])) == [*range(C)]
    assert all(set(range(C, 2 * C)) <= {*train} for train, _ in folds)
    probe = CrossModalProbe(world.texts).fit(world.X, world.y)
    rows = np.concatenate([unit_rows(world.X), probe.texts_])
    oracle = LinearProbe(folds=folds).fit(rows, labels)
    assert len(oracle.search_) > 3  # C is searched at one picture a class
    np.testing.assert_allclose(probe.logits(world.X), oracle.logits(world.X), rtol=1e-9)


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_what_is_missing_is_said(kind: Any) -> None:
    world = Set((3,) * C)
    probe = kind(world.texts).fit(world.X, world.y)
    with pytest.raises(UsageError, match="text of each class"):
        probe.extend(world.X[:2], C, world.X)
    with pytest.raises(UsageError, match="pictures of the new class"):
        probe.extend(world.X[:0], C, world.X, text=world.X[0])
    with pytest.raises(UsageError, match="none for 4"):
        kind({k: world.texts[k] for k in range(4)}).fit(world.X, world.y)
