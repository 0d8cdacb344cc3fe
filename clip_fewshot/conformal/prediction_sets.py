"""Sets of classes that hold the true one at a promised rate: any loss of a class becomes a p-value of that class.

Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005, chapter 2: a class is ruled out where its loss
is larger than those of nearly all known pictures under their own classes. With -ln p as the loss it is the least
ambiguous set of Sadinle, Lei, Wasserman, "Least ambiguous set-valued classifiers with bounded error levels", 2019,
theorem 1: all classes above one probability. A set may be empty: then no class fits.

What holds depends on where the losses of the known pictures come from, with P(the set holds the class) for a new
picture that is exchangeable with them:

- pictures that the classifier has not learned from: at least 1 - alpha;
- cross-validation, where each fold ranks the new picture by its own model: at least 1 - 2 alpha - sqrt(2 / n) (Barber,
  Candes, Ramdas, Tibshirani, "Predictive inference with the jackknife+", 2021, theorem 4);
- cross-validation, and one classifier of all pictures for the new ones: no theorem, and the smallest sets.
  docs/figures/prediction_sets.md has its coverage in simulation and on pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.config.ranges import require_real
from clip_fewshot.conformal.p_values import ROUNDING, p_values
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.arrays import as_rows, as_scores
from clip_fewshot.types import BoolArray, FloatArray

LEAST_PROBABILITY = 1e-300


def measure_losses(p: FloatArray) -> FloatArray:
    """-ln of probabilities of any shape; finite, what is next to impossible included."""
    return np.asarray(-np.log(np.maximum(np.asarray(p, np.float64), LEAST_PROBABILITY)))


def class_p_values(known: FloatArray, losses: FloatArray, labels: NDArray[np.int64] | None = None) -> FloatArray:
    """(m, c) share of known pictures whose own class fits them no better than a class fits a new picture, in (0, 1].

    Args:
        known: (n,) loss of the true class of each known picture, by a classifier that has not learned from it.
        losses: (m, c) of every class for each new picture. Any loss, such as -ln p; larger = fits less.
        labels: (n,) classes of the known pictures in 0..c-1, to rank within each class: the rate then holds for the
            pictures of each class, and takes as many of each as of all otherwise. None: ranked among all.

    Raises:
        UsageError: other shapes, or what is no finite number.

    Example:
        >>> import numpy as np
        >>> from clip_fewshot.conformal.prediction_sets import class_p_values, prediction_sets
        >>> p = class_p_values(np.array([0.1, 0.2, 0.3, 1.5]), np.array([[0.1, 2.0], [0.9, 0.5]]))
        >>> p.tolist()
        [[1.0, 0.2], [0.4, 0.4]]
        >>> prediction_sets(p, 0.2).tolist()
        [[True, False], [True, True]]
    """
    own, table = as_scores(known, "known"), as_rows(losses, "losses")
    if labels is None:
        return p_values(-own, -table.ravel()).reshape(table.shape)
    if len(labels) != len(own):
        raise UsageError(expected=f"{len(own)} labels", got=str(len(labels)), fix="pass one a picture", where="labels")
    columns = [p_values(-own[np.asarray(labels) == label], -column) for label, column in enumerate(table.T)]
    return np.stack(columns, axis=1) if columns else np.ones(table.shape)


def prediction_sets(p: FloatArray, alpha: float) -> BoolArray:
    """(m, c) which classes cannot be ruled out at ``alpha``, the share of sets that may lack the true class.

    With n known pictures no p-value is below 1 / (n + 1): below that alpha nothing is ruled out.

    Args:
        p: (m, c) of :func:`class_p_values`. alpha: in (0, 1).
    """
    fix = "choose the share of sets that may lack the true class"
    return np.asarray(as_rows(p, "p") > require_real(alpha, "alpha", "(0, 1)", "alpha", fix) + ROUNDING)
