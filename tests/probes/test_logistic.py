"""The linear probe against scikit-learn's float64 solve, closed relations, and its own contract."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.errors import UsageError
from clip_fewshot.probes import LinearProbe, find_probe
from tests.probes.synthetic import centred, features, objective, unit

MANY = settings(max_examples=25, deadline=None)


def sure(probe: LinearProbe, X: np.ndarray, off: float) -> np.ndarray:
    """(n,) rows whose label stays when each logit moves by ``off``."""
    second, first = np.sort(probe.logits(X), axis=1)[:, -2:].T
    return first - second > 2 * off


@pytest.mark.parametrize("c", [2, 3, 7])
@pytest.mark.parametrize(("shots", "d"), [(1, 30), (6, 40), (30, 10), (40, 90)])
@pytest.mark.parametrize("C", [1e-6, 1e-2, 1.0, 1e2, 1e4])
def test_reaches_the_optimum_of_a_float64_solve(c: int, shots: int, d: int, C: float) -> None:
    """(1, 30): fewer rows than features; (30, 10): blocks inverted whole; (40, 90): by their heaviest rows."""
    X, y = features(c, shots, d)
    ours = LinearProbe(C=C).fit(X, y)
    oracle = LogisticRegression(C=C, tol=1e-8, max_iter=20_000).fit(centred(X), y)
    reached = objective(ours.coef_, ours.intercept_, unit(X), y, C)
    best = objective(oracle.coef_, oracle.intercept_, centred(X), y, C)
    assert reached <= best * (1 + 1e-6)
    assert reached >= best * (1 - 1e-4)  # the oracle's own error
    assert ours.objective_ == pytest.approx(reached, rel=1e-10)
    assert ours.gradient_norm_**2 / 2 <= 1e-6 * reached
    if C <= 1:  # where the oracle converges
        assert np.linalg.norm(ours.coef_ - oracle.coef_) <= 1e-3 * np.linalg.norm(oracle.coef_)
    if 1e-2 <= C <= 1:  # at 1e-6 its tolerance is above the intercepts, which decide there
        certain = sure(ours, X, 1e-3 * float(np.linalg.norm(oracle.coef_)))  # rows are no longer than 1
        assert (ours.predict(X) == oracle.predict(centred(X)))[certain].all()


@pytest.mark.parametrize("C", [1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("counts", [(40, 1), (3, 90, 8), (1, 1, 1, 30)])
def test_unbalanced_classes_reach_it_too(counts: tuple[int, ...], C: float) -> None:
    X, y = features(len(counts), max(counts), 40, spread=0.3)
    rows = np.concatenate([np.flatnonzero(y == k)[:n] for k, n in enumerate(counts)])
    X, y = X[rows], y[rows]
    ours = LinearProbe(C=C).fit(X, y)
    oracle = LogisticRegression(C=C, tol=1e-8, max_iter=50_000).fit(centred(X), y)
    reached = objective(ours.coef_, ours.intercept_, unit(X), y, C)
    best = objective(oracle.coef_, oracle.intercept_, centred(X), y, C)
    assert reached <= best * (1 + 1e-6)
    assert ours.gradient_norm_**2 / 2 <= 1e-6 * reached
    assert ours.score(X, y) >= oracle.score(centred(X), y)


def apart(one: LinearProbe, other: LinearProbe) -> float:
    """How far logits of two solutions of one problem may be apart; probabilities, half as far.

    The objective is 1-strongly convex in the weights, so that each solution is within its gradient's norm of the
    optimum; a row, with the 1 of the intercept and without the mean, is no longer than the root of 2 here. Rotations
    and new orders are other roundings, and a solver that stops a step earlier is right too: seen, 2e-2 of this.
    """
    return 2**0.5 * (one.gradient_norm_ + other.gradient_norm_)


@MANY
@given(st.integers(0, 1000))
def test_relations_that_must_leave_predictions_alone(seed: int) -> None:
    """Rotation, a positive factor per row, the order of rows, the names of classes."""
    X, y = features(4, 6, 12, seed)
    rng = np.random.default_rng(seed)
    probe = LinearProbe(C=10.0).fit(X, y)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    factor = rng.uniform(0.1, 10, size=(len(X), 1))
    order = rng.permutation(len(X))
    for other, rows in (
        (LinearProbe(C=10.0).fit(X @ turn, y), X @ turn),
        (LinearProbe(C=10.0).fit(X * factor, y), X),
        (LinearProbe(C=10.0).fit(X[order], y[order]), X),
    ):
        assert np.allclose(other.decision_function(rows), probe.decision_function(X), rtol=0, atol=apart(other, probe))
    names = np.array(["d", "a", "c", "b"])
    named = LinearProbe(C=10.0).fit(X, names[y])
    assert (named.predict(X) == names[probe.predict(X)])[sure(probe, X, apart(named, probe))].all()
    columns = named.predict_proba(X)[:, np.argsort(np.argsort(names))]
    assert np.allclose(columns, probe.predict_proba(X), rtol=0, atol=apart(named, probe) / 2)


def test_same_seed_same_bytes_and_the_seed_is_only_for_folds() -> None:
    X, y = features(4, 7, 20)
    first, second = (LinearProbe(folds=3, seed=5).fit(X, y) for _ in range(2))
    assert first.coef_.tobytes() == second.coef_.tobytes()
    assert LinearProbe(C=1.0, seed=1).fit(X, y).coef_.tobytes() == LinearProbe(C=1.0).fit(X, y).coef_.tobytes()


@pytest.mark.parametrize("names", [None, ["x", "yy", "zzz"]])
def test_arrays_carry_the_probe_without_pickle(names) -> None:
    X, y = features(3, 6, 10)
    probe = LinearProbe(C=3.0).fit(X, y if names is None else np.array(names, dtype=object)[y])
    file = io.BytesIO()
    np.savez(file, **probe.to_arrays())
    file.seek(0)
    loaded = LinearProbe.from_arrays(np.load(file, allow_pickle=False))
    assert loaded.predict_proba(X).tobytes() == probe.predict_proba(X).tobytes()
    assert (loaded.predict(X) == probe.predict(X)).all()


def test_mistakes_are_explained() -> None:
    X, y = features(3, 4, 6)
    with pytest.raises(UsageError, match="C > 0, got -1"):
        LinearProbe(C=-1).fit(X, y)
    with pytest.raises(UsageError, match="at least 2 folds, got 1"):
        LinearProbe(folds=1).fit(X, y)
    with pytest.raises(UsageError, match="at least 2 classes"):
        LinearProbe().fit(X, np.zeros(len(X), dtype=int))
    with pytest.raises(UsageError, match=r"one of logistic, prototype, cache, .*prototype-text, got 'svm'"):
        find_probe("svm")


def test_beats_an_unconverged_scikit_learn_at_large_C() -> None:
    """The reason this class exists: a default-tolerance fit stops short of the optimum."""
    X, y = features(20, 8, 96, spread=0.25)
    ours = LinearProbe(C=100).fit(X, y)
    loose = LogisticRegression(C=100).fit(unit(X).astype(np.float32), y)
    reached, stopped = (objective(m.coef_, m.intercept_, unit(X), y, 100.0) for m in (ours, loose))
    assert reached < 0.999 * stopped


# scipy's array API stays off unless an environment variable was set before its import.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_passes_scikit_learns_own_checks() -> None:
    results = check_estimator(LinearProbe(), on_fail=None)
    assert not [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert Counter(r["status"] for r in results)["passed"] >= 54
