"""Probes: classifiers on fixed features. scikit-learn estimators: (n, d) arrays in, (n,) labels and probabilities out.

A probe learns in ``fit(X, y)``, has ``classes_``, ``predict`` and ``predict_proba``, and passes scikit-learn's
``check_estimator``. Those of ``EXTENSIBLE`` can learn a further class without moving the logits of the others.

Example:
    >>> import clip_fewshot as cf
    >>> list(cf.PROBES)
    ['logistic', 'prototype', 'cache', 'head']
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clip_fewshot.errors import UsageError
from clip_fewshot.probes.base import Probe as Probe
from clip_fewshot.probes.cache import CacheProbe as CacheProbe
from clip_fewshot.probes.head import HeadClassifier as HeadClassifier
from clip_fewshot.probes.logistic import LinearProbe as LinearProbe
from clip_fewshot.probes.penalty import SearchedC as SearchedC
from clip_fewshot.probes.prototype import PrototypeProbe as PrototypeProbe

PROBES: dict[str, Callable[..., Any]] = {
    "logistic": LinearProbe,
    "prototype": PrototypeProbe,
    "cache": CacheProbe,
    "head": HeadClassifier,
}

EXTENSIBLE: dict[str, type[Probe]] = {"logistic": LinearProbe, "prototype": PrototypeProbe, "cache": CacheProbe}


def build_probe(name: str, **options: Any) -> Any:
    """The probe called ``name`` in ``PROBES``."""
    if name not in PROBES:
        raise UsageError(
            expected=f"a probe out of {sorted(PROBES)}", got=repr(name), fix="check the spelling", where="probe"
        )
    return PROBES[name](**options)
