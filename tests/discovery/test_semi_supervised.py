"""Semi-supervised k-means: known images stay, the rest is Lloyd's algorithm, and the number is the best one tried."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from clip_fewshot.discovery import semi_supervised_kmeans
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.discovery.semi_supervised import assign_centres, estimate_groups
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import clustering
from tests.discovery.planted import planted


def both() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """New images and as many of known classes, in one numbering: known 0..5, new 6 and 7."""
    X, labels, reference = planted([30, 20], d=32, strays=50, apart=1.5)
    return X, np.where(labels < 2, labels + 6, labels - 2), reference


def test_old_and_new_are_put_right() -> None:
    X, truth, reference = both()
    for groups, least in ((None, 0.6), (2, 0.9)):
        found = semi_supervised_kmeans(X, reference, groups)
        assert min(clustering.gcd_accuracy(truth, found, truth < 6)) > least
        assert (found[truth < 6] == truth[truth < 6]).mean() > 0.9  # a known class keeps its own number


def test_centres_may_be_given() -> None:
    X, truth, reference = both()
    unit = normalize(X)
    centres = np.array([unit[truth == c].mean(axis=0) for c in (7, 6)])
    found = semi_supervised_kmeans(X, reference, centres)
    assert (found[truth == 7] == 6).mean() > 0.9
    assert (found[truth == 6] == 7).mean() > 0.9


def test_without_known_images_it_would_be_lloyd_s_algorithm() -> None:
    """One known image a class, at its start: from there, scikit-learn's k-means of both goes the same way."""
    rng = np.random.default_rng(0)
    centres = 5 * normalize(rng.normal(size=(3, 8)))
    rows = normalize(np.repeat(centres, 20, axis=0) + rng.normal(size=(60, 8)))
    known = KnownRows.from_features(centres, np.arange(3))
    got = assign_centres(rows, known, [known.rows])
    together = KMeans(3, init=known.rows, n_init=1, tol=0).fit(np.concatenate([known.rows, rows]))
    assert (together.labels_[:3] == np.arange(3)).all()
    assert (got == together.labels_[3:]).all()


def test_known_images_never_leave_their_class() -> None:
    """Two classes at one place: each centre is drawn to its own images, whatever is nearer."""
    known = KnownRows.from_features(np.array([[1.0, 0.05], [1.0, -0.05], [0.0, 1.0]]), np.array([0, 1, 1]))
    rows = normalize(np.array([[1.0, 0.0]] * 5 + [[0.1, 1.0]] * 5))
    assert set(assign_centres(rows, known, [known.means()])[5:]) == {1}


def test_the_number_is_the_least_of_the_best_tried() -> None:
    X, _, reference = both()
    known = KnownRows.from_features(*reference)
    assert 1 <= estimate_groups(normalize(X), known, 10, 0) <= 4
    assert estimate_groups(known.rows, known, 10, 0) <= 1
    assert estimate_groups(normalize(X), known, 0, 0) == 0


def test_no_image_no_label_and_a_start_beyond_the_distinct_images() -> None:
    X, _, reference = both()
    assert semi_supervised_kmeans(X[:0], reference).shape == (0,)
    found = semi_supervised_kmeans(np.repeat(X[:1], 4, axis=0), reference, 5)
    assert len(set(found)) == 1
    with pytest.raises(UsageError, match="known features with a label each"):
        semi_supervised_kmeans(X, (X[:0], np.empty(0)))
