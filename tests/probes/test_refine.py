"""Unlabelled pictures: the mixture against loops, what it gains, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.refine import EVEN, KAPPA, REFINE_ROUNDS, SHARPNESS_SD, mixture_logits, refine
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.types import FloatArray, LabelArray

C, D = 5, 24


def draw(counts: list[int], seed: int, spread: float = 1.0) -> tuple[FloatArray, LabelArray]:
    labels = np.repeat(np.arange(C), counts)
    noise = np.random.default_rng(seed).normal(size=(len(labels), D))
    return np.random.default_rng(99).normal(size=(C, D))[labels] + spread * noise, labels


def test_the_mixture_is_what_loops_make_of_it() -> None:
    shots, labels = draw([2, 1, 1, 1, 1], 0)
    queries, _ = draw([3, 2, 4, 1, 2], 1)
    shots, queries = unit_rows(shots), unit_rows(queries)
    logits = np.random.default_rng(2).normal(size=(len(queries), C))
    found = refine(logits, queries, shots, labels)

    means = [np.mean([x for x, y in zip(shots, labels, strict=True) if y == j], axis=0) for j in range(C)]
    proportions = np.full(C, 1 / C)
    for _ in range(REFINE_ROUNDS):
        centre = np.mean(means, axis=0)
        directions = [(m - centre) / np.linalg.norm(m - centre) for m in means]
        posteriors = np.zeros((len(queries), C))
        for i, q in enumerate(queries):
            u = (q - centre) / np.linalg.norm(q - centre)
            own = [np.log(proportions[j]) + KAPPA * u @ directions[j] + logits[i, j] for j in range(C)]
            posteriors[i] = np.exp(np.array(own) - logsumexp(own))
        for j in range(C):
            rows = [x for x, y in zip(shots, labels, strict=True) if y == j]
            total = np.sum(rows, axis=0) + sum(z * q for z, q in zip(posteriors[:, j], queries, strict=True))
            means[j] = total / (len(rows) + posteriors[:, j].sum())
        proportions = (posteriors.sum(axis=0) + EVEN * len(queries) / C) / ((1 + EVEN) * len(queries))
    np.testing.assert_allclose(found.posteriors, posteriors, atol=1e-9)
    means = np.array(means)
    centre = means.mean(axis=0)
    np.testing.assert_allclose(found.directions, KAPPA * unit_rows(means - centre), atol=1e-9)
    np.testing.assert_allclose(found.centre, centre, atol=1e-9)
    np.testing.assert_allclose(found.log_proportions, np.log(proportions), atol=1e-9)


@pytest.mark.parametrize("counts", [[40] * C, [80, 40, 20, 10, 8]])
def test_it_gains_where_classes_are_frequent_alike_and_where_they_are_not(counts: list[int]) -> None:
    before, after = [], []
    for seed in range(8):
        X, y = draw([1] * C, seed, 1.3)
        queries, truth = draw(counts, 100 + seed, 1.3)
        new, new_truth = draw(counts, 200 + seed, 1.3)
        plain, refined = TextPriorProbe().fit(X, y), TextPriorProbe().fit(X, y, unlabelled=queries)
        assert refined.moved_ > 0
        for asked, right in ((queries, truth), (new, new_truth)):  # those it was given, and others
            before.append(np.mean(plain.predict(asked) == right))
            after.append(np.mean(refined.predict(asked) == right))
    assert np.mean(after) > np.mean(before) + 0.03


def test_shots_are_taken_out_of_the_mean_of_their_class_and_weigh_the_mixture() -> None:
    shots, labels = draw([3, 2, 1, 2, 2], 0)
    queries, _ = draw([6] * C, 1)
    shots, queries = unit_rows(shots), unit_rows(queries)
    left_out, logits = np.random.default_rng(2).normal(size=(len(shots), C)), np.zeros((len(queries), C))
    found = refine(logits, queries, shots, labels, left_out)

    both = left_out.copy()
    for i in range(len(shots)):
        means = []
        for j in range(C):
            rows = [x for k, (x, y) in enumerate(zip(shots, labels, strict=True)) if y == j and k != i]
            total = np.sum(rows, axis=0) + found.posteriors[:, j] @ queries
            means.append(total / (len(rows) + found.posteriors[:, j].sum()))
        centre = np.mean(means, axis=0)
        both[i] += KAPPA * unit_rows(np.array(means) - centre) @ unit_rows(shots[i] - centre)

    def loss(scale: float, rows: FloatArray) -> float:
        return float(np.sum(logsumexp(scale * rows, axis=1) - scale * rows[np.arange(len(labels)), labels]))

    scales = np.geomspace(0.05, 20, 20001)
    sharpness = min(scales, key=lambda scale: loss(scale, both) + np.log(scale) ** 2 / (2 * SHARPNESS_SD**2))
    share = 1 / (1 + np.exp(loss(sharpness, both) - loss(1, left_out)))
    assert share > 0.01
    assert found.share == pytest.approx(share, rel=2e-3)
    assert found.factor == pytest.approx(1 - share + share * sharpness, rel=1e-3)
    assert np.linalg.norm(found.directions, axis=1) == pytest.approx(np.full(C, KAPPA * share * sharpness), rel=2e-3)
    np.testing.assert_allclose(found.left_out, (1 - share) * left_out + share * sharpness * both, rtol=0.01, atol=0.01)


def test_a_mixture_that_shots_contradict_has_no_share() -> None:
    X, y = draw([12] * C, 0, 0.5)
    queries, labels = draw([30] * C, 1, 0.5)
    sure = 20.0 * np.eye(C)
    assert refine(sure[labels], unit_rows(queries), unit_rows(X), y, sure[y] / 20).share > 0.99
    wrong = refine(sure[(labels + 1) % C], unit_rows(queries), unit_rows(X), y, sure[y] / 5)
    assert wrong.share < 0.01
    assert np.abs(wrong.directions).max() < 0.1


def test_probabilities_with_unlabelled_pictures_are_no_more_too_sure_than_without() -> None:
    texts = dict(enumerate(unit_rows(np.random.default_rng(99).normal(size=(C, D)))))
    plain, refined = [], []
    for seed in range(4):
        X, y = draw([16] * C, seed, 1.6)
        queries, _ = draw([40] * C, 100 + seed, 1.6)
        asked, truth = draw([60] * C, 200 + seed, 1.6)
        for losses, Q in ((plain, None), (refined, queries)):
            p = TextPriorProbe(texts).fit(X, y, unlabelled=Q).predict_proba(asked)
            losses.append(-np.log(p[np.arange(len(truth)), truth]).mean())
    assert np.mean(refined) < np.mean(plain) + 0.01


def test_pictures_that_contradict_the_shots_are_refused() -> None:
    X, y = draw([30] * C, 0, 0.5)
    queries, labels = draw([30] * C, 1, 0.5)
    swapped = 40.0 * np.eye(C)[(labels + 1) % C]  # a classifier that is sure, and wrong
    found = refine(swapped, unit_rows(queries), unit_rows(X)[::30], y[::30])
    assert found.refused
    probe = TextPriorProbe().fit(X, y, unlabelled=queries)
    assert not probe.refused_
    assert probe.agreement_ > 0.9
    assert not refine(40.0 * np.eye(C)[labels], unit_rows(queries), unit_rows(X), y).refused


def test_a_class_more_moves_no_other_and_arrays_restore_it() -> None:
    X, y = draw([2] * C, 0)
    known = y < C - 1
    queries, _ = draw([20] * (C - 1) + [0], 1)
    probe = TextPriorProbe().fit(X[known], y[known], unlabelled=queries)
    more = probe.extend(X[~known], C - 1, X[known])
    asked, truth = draw([20] * C, 2, 0.7)
    assert more.logits(asked)[:, :-1].tobytes() == probe.logits(asked).tobytes()
    assert np.mean(more.predict(asked)[truth == C - 1] == C - 1) > 0.5
    restored = TextPriorProbe.from_arrays(more.to_arrays())
    assert restored.logits(asked).tobytes() == more.logits(asked).tobytes()


def test_mixture_logits_of_a_row_are_its_own() -> None:
    X, y = draw([2] * C, 0)
    found = refine(np.zeros((len(X), C)), unit_rows(X), unit_rows(X), y)
    whole = mixture_logits(unit_rows(X), found.directions, found.centre, C)
    alone = mixture_logits(unit_rows(X)[:1], found.directions, found.centre, C)
    np.testing.assert_allclose(whole[:1], alone, rtol=1e-12)


def test_a_class_by_its_name_alone_and_unlabelled_pictures_do_not_go_together() -> None:
    X, y = draw([2] * C, 0)
    texts = dict(enumerate(unit_rows(np.random.default_rng(99).normal(size=(C, D)))))
    known = y < C - 1
    with pytest.raises(UsageError, match="pictures of each class, got none of 4"):
        TextPriorProbe(texts).fit(X[known], y[known], unlabelled=X)
    few = {k: text for k, text in texts.items() if k < C - 1}
    probe = TextPriorProbe(few).fit(X[known], y[known], unlabelled=X[known])
    with pytest.raises(UsageError, match="give pictures of it"):
        probe.extend(np.empty((0, D)), C - 1, text=texts[C - 1])
