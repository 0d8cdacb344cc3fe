"""New classes with strays of known ones, as CLIP's features would show them."""

from __future__ import annotations

import numpy as np


def planted(sizes: list[int], seed: int = 0, d: int = 64, known: int = 6, strays: int = 0, apart: float = 1.0):
    """New classes of the given sizes, ``strays`` false alarms, and a reference of ``known`` classes of 16.

    A large common mean, classes around it, and a decaying spread that all classes share: what CLIP's features are like.
    """
    rng = np.random.default_rng(seed)
    centres, mean = rng.normal(size=(len(sizes) + known, d)) * apart, 2 * rng.normal(size=d)
    spread = (1 + np.arange(d)) ** -0.35
    spread *= np.sqrt(d) / np.linalg.norm(spread)
    draw = lambda classes: mean + centres[classes] + rng.normal(size=(len(classes), d)) * spread  # noqa: E731
    labels = np.repeat(np.arange(len(sizes)), sizes)
    stray_labels = len(sizes) + rng.integers(0, known, strays)
    reference_labels = np.repeat(np.arange(known), 16)
    X = draw(np.append(labels, stray_labels).astype(int))
    return X, np.append(labels, stray_labels), (draw(len(sizes) + reference_labels), reference_labels)
