from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.errors import DivergedError, UsageError
from clip_fewshot.probes.head import HeadClassifier

TRAINABLE = ("linear", "mlp", "arcface", "mlp-arcface", "attention")


def digits(shots: int = 16) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The first ``shots`` scans of each class train."""
    X, y = load_digits(return_X_y=True)
    rank = np.zeros(len(y), dtype=int)
    for c in range(10):
        rank[y == c] = np.arange((y == c).sum())
    return X[rank < shots], y[rank < shots], X[rank >= 100], y[rank >= 100]


# scipy's array API stays off unless an environment variable was set before its import.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_passes_scikit_learns_own_checks() -> None:
    results = check_estimator(HeadClassifier(epochs=30, lr=1e-2), on_fail=None)
    count = Counter(result["status"] for result in results)
    assert not [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert count["passed"] >= 54
    assert [r["check_name"] for r in results if r["status"] == "skipped"] in ([], ["check_array_api_input"])


@pytest.mark.parametrize("head", TRAINABLE)
def test_every_head_learns_the_digits(head: str) -> None:
    X, y, X_test, y_test = digits()
    assert HeadClassifier(head, epochs=60).fit(X, y).score(X_test, y_test) > 0.8  # logistic regression: .85


def test_labels_without_meaning_are_not_learned() -> None:
    """Shuffled labels: within five standard deviations of chance, so neither rows nor labels leak."""
    X, y, X_test, y_test = digits()
    y = np.random.default_rng(0).permutation(y)
    score = HeadClassifier("mlp-arcface", epochs=40, lr=1e-2).fit(X, y).score(X_test, y_test)
    assert abs(score - 0.1) < 5 * np.sqrt(0.09 / len(X))  # the 160 training labels are what is random


def test_a_seed_fixes_the_result_and_no_global_state_moves() -> None:
    X, y, X_test, _ = digits(4)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1]
    first = HeadClassifier(epochs=5, batch_size=16).fit(X, y).decision_function(X_test)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(6)
    again = HeadClassifier(epochs=5, batch_size=16).fit(X, y).decision_function(X_test)
    other = HeadClassifier(epochs=5, batch_size=16, seed=1).fit(X, y).decision_function(X_test)
    assert np.array_equal(again, first)
    assert not np.allclose(other, first)


def test_arrays_are_all_that_prediction_needs() -> None:
    X, y, X_test, _ = digits(4)
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])[y]
    fitted = HeadClassifier("mlp-arcface", options={"margin": 0.2, "hidden_features": 32}, epochs=5).fit(X, names)
    assert all(isinstance(value, np.ndarray) for value in fitted.state_.values())
    restored = HeadClassifier(**fitted.get_params())
    restored.classes_, restored.state_, restored.n_features_in_ = fitted.classes_, fitted.state_, 64
    assert np.array_equal(restored.predict_proba(X_test), fitted.predict_proba(X_test))
    assert set(fitted.predict(X_test)) <= set(names)


def test_two_classes_have_one_decision_column() -> None:
    X, y, X_test, _ = digits(8)
    fitted = HeadClassifier(epochs=20).fit(X[y < 2], y[y < 2])
    decision, proba = fitted.decision_function(X_test), fitted.predict_proba(X_test)
    assert decision.shape == (len(X_test),)
    np.testing.assert_allclose(1 / (1 + np.exp(-decision)), proba[:, 1], atol=1e-12)
    assert np.array_equal(fitted.predict(X_test), (decision > 0).astype(int))


def test_a_diverged_training_says_so() -> None:
    X, y, _, _ = digits(4)
    with pytest.raises(DivergedError, match="lower lr"):
        HeadClassifier("linear", epochs=20, lr=1e30).fit(X, y)


def test_a_head_with_nothing_to_train_is_refused() -> None:
    X, y, _, _ = digits(4)
    with pytest.raises(UsageError, match="zero-shot"):
        HeadClassifier("zero-shot").fit(X, y)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="1 class"):
        HeadClassifier().fit(np.eye(4), np.zeros(4, dtype=int))
