"""The zero-shot probe: the nearest text wins whatever the pictures of the fit, and its scale makes probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import ZeroShotProbe


def world() -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
    rng = np.random.default_rng(0)
    texts = unit_rows(rng.normal(size=(3, 8)))
    y = np.arange(300) % 3
    return 0.4 * texts[y] + rng.normal(scale=0.4, size=(300, 8)), y, dict(enumerate(texts))


def test_the_nearest_text_wins_whatever_was_fitted() -> None:
    X, y, texts = world()
    nearest = (unit_rows(X) @ np.stack(list(texts.values())).T).argmax(axis=1)
    for rows in (slice(3), slice(60, 120)):
        np.testing.assert_array_equal(ZeroShotProbe(texts).fit(X[rows], y[rows]).predict(X), nearest)


def test_probabilities_are_right_on_average() -> None:
    X, y, texts = world()
    probe = ZeroShotProbe(texts).fit(X[:150], y[:150])
    confidence, right = probe.predict_proba(X[150:]).max(axis=1).mean(), np.mean(probe.predict(X[150:]) == y[150:])
    assert confidence == pytest.approx(right, abs=0.06)


def test_texts_have_seen_no_picture() -> None:
    X, y, texts = world()
    probe = ZeroShotProbe(texts).fit(X, y)
    np.testing.assert_allclose(probe.left_out_logits(), probe.logits(X), atol=1e-12)


def test_a_class_needs_its_text_and_no_picture() -> None:
    X, y, texts = world()
    probe = ZeroShotProbe({0: texts[0], 1: texts[1]}).fit(X[y < 2], y[y < 2])
    more = probe.extend(np.empty((0, 8)), 2, text=texts[2])
    np.testing.assert_array_equal(more.predict(X), ZeroShotProbe(texts).fit(X, y).predict(X))
    with pytest.raises(UsageError, match="a text of each class"):
        probe.extend(X[y == 2], 2)
    with pytest.raises(UsageError, match="none for 2"):
        ZeroShotProbe({0: texts[0], 1: texts[1]}).fit(X, y)
