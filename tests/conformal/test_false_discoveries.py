"""Step-up procedures against SciPy, against their definitions by trial of every threshold, and in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from clip_fewshot.conformal.false_discoveries import benjamini_hochberg, storey
from clip_fewshot.conformal.p_values import p_values
from clip_fewshot.errors import UsageError

LEVELS = st.sampled_from([0.05, 0.1, 0.2, 0.5])
RANKS = st.lists(st.integers(1, 40), min_size=1, max_size=30)  # p-values of 39 calibration pictures
MANY = settings(max_examples=200, deadline=None)


@MANY
@given(RANKS, LEVELS)
def test_benjamini_hochberg_equals_scipy(ranks: list[int], q: float) -> None:
    p = np.array(ranks) / 40
    assert benjamini_hochberg(p, q).tolist() == (false_discovery_control(p) <= q + 1e-9).tolist()


def storey_by_trial(p: np.ndarray, q: float, lam: float) -> np.ndarray:
    """The largest threshold t <= lam whose estimated false-discovery rate is at most q, tried one by one."""
    known = (1 + np.sum(p > lam)) / (1 - lam)
    good = [t for t in p if t <= lam + 1e-12 and known * t <= (q + 1e-9) * np.sum(p <= t)]
    return p <= max(good, default=-1)


@MANY
@given(RANKS, LEVELS, st.sampled_from([0.25, 0.5, 0.8]))
def test_storey_equals_trying_every_threshold(ranks: list[int], q: float, lam: float) -> None:
    p = np.array(ranks) / 40
    assert storey(p, q, lam).tolist() == storey_by_trial(p, q, lam).tolist()


def test_false_discoveries_of_p_values_that_share_their_calibration_pictures() -> None:
    """The false-discovery proportion lies in [0, 1]: Hoeffding's bound at a failure rate of one in a million."""
    rng, runs, q, m, new = np.random.default_rng(0), 1500, 0.2, 40, 10
    shares: dict[str, list[float]] = {"bh": [], "storey": []}
    found = 0
    for _ in range(runs):
        p = p_values(rng.normal(size=60), np.concatenate([rng.normal(size=m - new), rng.normal(size=new) - 3]))
        for name, method in (("bh", benjamini_hochberg), ("storey", storey)):
            flagged = method(p, q)
            shares[name].append(flagged[:-new].sum() / max(1, flagged.sum()))
            found += int(flagged[-new:].sum())
    for share in shares.values():
        assert np.mean(share) <= q + np.sqrt(np.log(1e6) / (2 * runs))
    assert found > runs * new  # half of all there is to find, by either


def test_edges() -> None:
    assert benjamini_hochberg(np.array([]), 0.1).shape == storey(np.array([]), 0.1).shape == (0,)
    assert benjamini_hochberg(np.array([0.05, 0.9]), 0.1).tolist() == [True, False]  # met exactly
    assert not storey(np.array([0.9, 0.95]), 0.5).any()
    for p, q in ((np.array([1.5]), 0.1), (np.array([np.nan]), 0.1), (np.array([[0.1]]), 0.1), (np.array([0.1]), 1.0)):
        with pytest.raises(UsageError):
            benjamini_hochberg(p, q)
    with pytest.raises(UsageError, match="lam in"):
        storey(np.array([0.1]), 0.1, lam=1)
