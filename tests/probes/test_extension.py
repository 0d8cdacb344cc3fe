"""A class added to a probe: the others keep their logits to the last bit, and the new row is the best there is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import PROBES, CacheProbe, LinearProbe, PrototypeProbe
from tests.probes.test_head import digits

every = pytest.mark.parametrize("name", PROBES)


def fit(name: str, X: np.ndarray, y: np.ndarray) -> Any:
    """A probe; one that reads texts is given the means of its classes."""
    kind: Any = PROBES[name]
    reads = getattr(kind, "reads_texts", False)
    return (kind({k: X[y == k].mean(axis=0) for k in np.unique(y).tolist()}) if reads else kind()).fit(X, y)


def extend(probe: Any, X: np.ndarray, label: Any, known: np.ndarray) -> Any:
    """The same with a class more."""
    text = {"text": X.mean(axis=0)} if getattr(probe, "reads_texts", False) else {}
    return probe.extend(X, label, known, **text)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("probe", [PrototypeProbe(), pytest.param(CacheProbe(), marks=pytest.mark.slow)])
def test_passes_scikit_learns_own_checks(probe: PrototypeProbe | CacheProbe) -> None:
    results = check_estimator(probe, on_fail=None)
    count = Counter(result["status"] for result in results)
    assert not [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert count["passed"] >= 50


@every
@pytest.mark.parametrize("known", [2, 3, 9])
def test_the_logits_of_the_classes_before_are_the_same_bytes(name: str, known: int) -> None:
    X, y, X_test, _ = digits(8)
    old = y < known
    probes = [fit(name, X[old], y[old])]
    for later in range(known, 10):
        probes.append(extend(probes[-1], X[y == later], later, X[y < later]))
    assert probes[-1].classes_.tolist() == list(range(10))
    last = probes[-1].logits(X_test)
    for probe in probes:
        c = len(probe.classes_)
        assert probe.logits(X_test).shape == (len(X_test), c)
        assert np.ascontiguousarray(last[:, :c]).tobytes() == probe.logits(X_test).tobytes()


@every
def test_what_was_added_is_recognised_and_little_else_is_lost(name: str) -> None:
    X, y, X_test, y_test = digits(16)
    before = fit(name, X[y < 9], y[y < 9])
    after = extend(before, X[y == 9], 9, X[y < 9])
    old, new = y_test < 9, y_test == 9
    assert (after.predict(X_test[new]) == 9).mean() > 0.5
    assert (after.predict(X_test[old]) == y_test[old]).mean() > (
        before.predict(X_test[old]) == y_test[old]
    ).mean() - 0.1


@every
def test_an_extended_probe_survives_its_arrays(name: str) -> None:
    X, y, X_test, _ = digits(4)
    probe = extend(extend(fit(name, X[y < 8], y[y < 8]), X[y == 8], 8, X[y < 8]), X[y == 9], 9, X[y < 9])
    again = PROBES[name].from_arrays(probe.to_arrays())
    assert again.predict_proba(X_test).tobytes() == probe.predict_proba(X_test).tobytes()
    assert (again.predict(X_test) == probe.predict(X_test)).all()


@every
def test_extending_leaves_the_probe_itself_alone_and_refuses_a_class_it_knows(name: str) -> None:
    X, y, X_test, _ = digits(4)
    probe = fit(name, X[y < 9], y[y < 9])
    before = probe.logits(X_test).tobytes()
    extend(probe, X[y == 9], 9, X[y < 9])
    assert probe.logits(X_test).tobytes() == before
    assert len(probe.classes_) == 9
    with pytest.raises(UsageError, match="does not know"):
        extend(probe, X[y == 9], 3, X[y < 9])


@every
def test_names_of_any_length_can_be_added(name: str) -> None:
    X, y, _, _ = digits(4)
    names = np.array(["ant", "bee"])[y[y < 2]]
    probe = extend(fit(name, X[y < 2], names), X[y == 2], "axolotl", X[y < 2])
    assert probe.classes_.tolist() == ["ant", "bee", "axolotl"]


def test_without_known_pictures_a_logistic_row_has_nothing_to_stand_against() -> None:
    X, y, _, _ = digits(4)
    probe = LinearProbe(C=1.0).fit(X[y < 9], y[y < 9])
    with pytest.raises(UsageError, match="known"):
        probe.extend(X[y == 9], 9)


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("d", [12, 200])  # more rows than features, and fewer
def test_the_added_row_is_the_minimum_that_a_general_optimiser_finds(C: float, d: int) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 15)
    X = 1 + rng.normal(size=(5, d))[y] + rng.normal(size=(75, d))
    old = y < 4
    probe = LinearProbe(C=C).fit(X[old], y[old])
    extended = probe.extend(X[~old], 4, X[old])
    unit, others = unit_rows(X), logsumexp(probe.logits(X), axis=1)
    sign = np.where(old, -1.0, 1.0)

    def loss(at):
        s = unit @ at[:-1] + at[-1]
        z = sign * (others - s)
        p = np.exp(-np.logaddexp(0, -z))
        slope = np.append(at[:-1] - C * unit.T @ (sign * p), -C * (sign * p).sum())
        return C * np.logaddexp(0, z).sum() + at[:-1] @ at[:-1] / 2, slope

    found = np.append(extended.coef_[-1], extended.intercept_[-1])
    oracle = minimize(
        loss, np.zeros(d + 1), jac=True, method="L-BFGS-B", options={"maxiter": 20000, "ftol": 0, "gtol": 1e-9}
    )
    assert loss(found)[0] <= oracle.fun * (1 + 1e-7)
    # The same by the loss of the whole softmax, which knows nothing of offsets.
    logits = extended.logits(X)
    whole = C * (logsumexp(logits, axis=1) - logits[np.arange(75), y]).sum() + found[:-1] @ found[:-1] / 2
    fixed = C * (logsumexp(probe.logits(X[old]), axis=1) - probe.logits(X[old])[np.arange(60), y[old]]).sum()
    assert whole == pytest.approx(loss(found)[0] + fixed)


def test_prototypes_are_the_nearest_means_on_the_sphere() -> None:
    X, y, X_test, _ = digits(8)
    probe = PrototypeProbe().fit(X, y)
    rows = unit_rows(unit_rows(X) - unit_rows(X).mean(axis=0))
    means = np.array([rows[y == c].mean(axis=0) for c in range(10)])
    oracle = KNeighborsClassifier(1).fit(unit_rows(means), np.arange(10))
    asked = unit_rows(unit_rows(X_test) - unit_rows(X).mean(axis=0))
    assert (probe.predict(X_test) == oracle.predict(asked)).all()


def test_the_cache_is_a_radial_basis_function_network() -> None:
    """exp(-beta (1 - cos)) = exp(-beta/2 |x - key|^2) on unit rows; scikit-learn's kernel is the twin."""
    X, y, X_test, _ = digits(8)
    X, y = X[3:], y[3:]  # classes of unequal size
    probe = CacheProbe(beta=3.0, scale=7.0).fit(X, y)
    centre = unit_rows(X).mean(axis=0)
    near = rbf_kernel(unit_rows(unit_rows(X_test) - centre), unit_rows(unit_rows(X) - centre), gamma=1.5)
    expected = 7.0 * np.column_stack([near[:, y == c].mean(axis=1) for c in range(10)])
    np.testing.assert_allclose(probe.logits(X_test), expected, rtol=1e-10)


def test_sharpness_and_scale_are_those_that_left_out_pictures_like_best() -> None:
    X, y, _, _ = digits(4)
    chosen = CacheProbe().fit(X, y)
    assert chosen.scale_ == pytest.approx(CacheProbe(beta=chosen.beta_).fit(X, y).scale_)

    def left_out(beta: float, scale: float) -> float:
        logits = CacheProbe(beta=beta, scale=scale).fit(X, y).left_out_logits()
        return float((logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]).mean())

    best = left_out(chosen.beta_, chosen.scale_)
    assert all(best <= left_out(beta, scale) + 0.02 for beta in (1.0, 4.0, 16.0) for scale in (8.0, 32.0, 64.0))


def test_one_picture_a_class_leaves_the_published_sharpness() -> None:
    X, y, X_test, y_test = digits(1)
    probe = CacheProbe().fit(X, y)
    assert probe.beta_ == 5.5
    for calibrated in (probe, PrototypeProbe().fit(X, y)):
        p = calibrated.predict_proba(X_test)
        assert abs(p.max(axis=1).mean() - np.mean(calibrated.predict(X_test) == y_test)) < 0.15


@pytest.mark.parametrize("wrong", [PrototypeProbe(scale=0.0), CacheProbe(beta=-1.0), CacheProbe(scale=float("nan"))])
def test_options_out_of_range_are_refused(wrong: PrototypeProbe | CacheProbe) -> None:
    X, y, _, _ = digits(2)
    with pytest.raises(UsageError, match="> 0"):
        wrong.fit(X, y)
