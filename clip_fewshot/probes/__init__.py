"""Probes: classifiers on fixed features. scikit-learn estimators: (n, d) arrays in, (n,) labels and probabilities out.

A probe learns in ``fit(X, y)``, has ``classes_``, ``predict`` and ``predict_proba``, and can learn a further class
without moving the logits of the others; see :class:`clip_fewshot.probes.base.Probe`. ``HeadClassifier``, which trains a
head on fixed features, cannot do that: it is an estimator beside them and no member.

Example:
    >>> import clip_fewshot as cf
    >>> list(cf.PROBES)[:5]
    ['logistic', 'prototype', 'cache', 'text-prior', 'zero-shot']
"""

from __future__ import annotations

from clip_fewshot.probes.base import Probe as Probe
from clip_fewshot.probes.cache import CacheProbe as CacheProbe
from clip_fewshot.probes.cross_modal import CrossModalProbe as CrossModalProbe
from clip_fewshot.probes.gaussian import GaussianProbe as GaussianProbe
from clip_fewshot.probes.gaussian import GaussianTextProbe as GaussianTextProbe
from clip_fewshot.probes.head import HeadClassifier as HeadClassifier
from clip_fewshot.probes.kernel_ridge import KernelRidgeProbe as KernelRidgeProbe
from clip_fewshot.probes.kernel_ridge import ProKeRProbe as ProKeRProbe
from clip_fewshot.probes.logistic import LinearProbe as LinearProbe
from clip_fewshot.probes.penalty import SearchedC as SearchedC
from clip_fewshot.probes.prototype import PrototypeProbe as PrototypeProbe
from clip_fewshot.probes.prototype_text import PrototypeTextProbe as PrototypeTextProbe
from clip_fewshot.probes.text_prior import TextPriorProbe as TextPriorProbe
from clip_fewshot.probes.tip_adapter import TipAdapterProbe as TipAdapterProbe
from clip_fewshot.probes.zero_shot import ZeroShotProbe as ZeroShotProbe
from clip_fewshot.runtime.parts import check_contract, choose_part

PROBES: dict[str, type[Probe]] = {
    "logistic": LinearProbe,
    "prototype": PrototypeProbe,
    "cache": CacheProbe,
    "text-prior": TextPriorProbe,
    "zero-shot": ZeroShotProbe,
    "tip-adapter": TipAdapterProbe,
    "cross-modal": CrossModalProbe,
    "gda": GaussianProbe,
    "gda-text": GaussianTextProbe,
    "kernel-ridge": KernelRidgeProbe,
    "proker": ProKeRProbe,
    "prototype-text": PrototypeTextProbe,
}


def find_probe(probe: str | type[Probe]) -> tuple[str, type[Probe]]:
    """(name, class) of a probe.

    Args:
        probe: a key of ``PROBES``, the name of an entry point, "python:MODULE:NAME", or a class of your own.

    Raises:
        UsageError: no such probe, or a class that lacks something of :class:`Probe`.
    """
    name, part = choose_part("probes", probe, PROBES)
    check_contract("probe", name, part, Probe)
    return name, part
