"""What every probe in PROBES must do, whatever it computes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from clip_fewshot.probes import PROBES, build_probe

pytestmark = pytest.mark.parametrize("name", PROBES)
C, SHOTS, D = 4, 6, 20


def features(seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(C), SHOTS)
    return 2 + rng.normal(size=(C, D))[y] + 0.3 * rng.normal(size=(len(y), D)), y


def test_learns_what_can_be_learned_and_returns_probabilities(name: str) -> None:
    X, y = features()
    probe = build_probe(name).fit(X, y)
    probabilities = probe.predict_proba(X)
    assert probabilities.shape == (len(X), C)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probe.classes_[probabilities.argmax(axis=1)] == probe.predict(X)).all()
    assert probe.score(X, y) == 1.0


def test_arguments_are_kept_and_learning_leaves_its_input_alone(name: str) -> None:
    X, y = features()
    before, probe = X.copy(), build_probe(name)
    params = dict(probe.get_params())
    probe.fit(X, y)
    assert probe.get_params() == params
    assert (before == X).all()
    assert not [a for a in vars(clone(probe)) if a.endswith("_")]


def test_string_labels_and_a_gap_in_the_numbers(name: str) -> None:
    X, y = features()
    names = np.array(["ant", "bee", "cat", "dog"])
    plain = build_probe(name).fit(X, y).predict(X)
    assert (build_probe(name).fit(X, names[y]).predict(X) == names[plain]).all()
    assert (build_probe(name).fit(X, y * 10).predict(X) == plain * 10).all()


def test_is_deterministic_and_moves_no_global_state(name: str) -> None:
    X, y = features()
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    first, second = (build_probe(name).fit(X, y).predict_proba(X) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert (np.random.get_state()[1] == state).all()


def test_scaling_a_picture_s_features_changes_nothing(name: str) -> None:
    X, y = features()
    probe = build_probe(name).fit(X, y)
    assert np.allclose(probe.predict_proba(7.5 * X), probe.predict_proba(X), atol=1e-6)
