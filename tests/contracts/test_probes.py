"""Every probe in PROBES keeps the contract, and the promises that the library's own make beyond it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sklearn.base import clone

from clip_fewshot.errors import UsageError
from clip_fewshot.probes import PROBES, HeadClassifier, find_probe
from clip_fewshot.testing.probes import _CHECKS, _KNOWN, _LABELS, fit_probe

each = pytest.mark.parametrize("name", PROBES)


@each
@pytest.mark.parametrize("check", _CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(PROBES[name])


@each
def test_it_is_an_estimator_whose_arguments_are_kept(name: str) -> None:
    probe = fit_probe(PROBES[name])
    params = dict(probe.get_params())
    probe.fit(_KNOWN, _LABELS)
    assert probe.get_params() == params
    assert not [a for a in vars(clone(probe)) if a.endswith("_")]
    assert probe.score(_KNOWN, _LABELS) == 1.0


def test_a_class_that_cannot_learn_a_further_one_is_no_probe() -> None:
    with pytest.raises(UsageError, match="HeadClassifier: method logits is missing"):
        find_probe(HeadClassifier)  # type: ignore[arg-type]
