"""Features for the tests of the probes, and scikit-learn's objective written down a second time."""

from __future__ import annotations

import numpy as np


def features(c: int = 5, shots: int = 8, d: int = 24, seed: int = 0, spread: float = 0.5):
    """CLIP-like: a large shared mean, classes near each other, a decaying spectrum."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(c), shots)
    centres = rng.normal(size=(c, d)) * spread
    return 2 + centres[y] + rng.normal(size=(len(y), d)) / np.sqrt(1 + np.arange(d)), y


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def centred(X):
    return unit(X) - unit(X).mean(axis=0)


def objective(coef, intercept, X, y, C):
    logits = X @ coef.T + intercept
    if len(coef) == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    top = logits.max(axis=1, keepdims=True)
    loss = (np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(y)), y]).sum()
    return C * loss + 0.5 * (coef**2).sum()
