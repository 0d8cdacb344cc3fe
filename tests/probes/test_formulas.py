"""The formula of a probe is the probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clip_fewshot.errors import UsageError
from clip_fewshot.probes import PROBES, TextPriorProbe
from clip_fewshot.probes.formulas import write_formula
from tests.probes.synthetic import features


def new(name: str, texts: dict[int, Any]) -> Any:
    kind: Any = PROBES[name]
    return kind(texts) if getattr(kind, "reads_texts", False) else kind()


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("name", PROBES)
def test_the_formula_gives_the_logits_of_a_probe_and_of_what_was_added_to_it(name: str, n_classes: int) -> None:
    X, y = features(n_classes, 5, d=12)
    asked, _ = features(n_classes, 6, d=12, seed=1)
    texts = dict(enumerate(np.random.default_rng(2).normal(size=(n_classes + 1, 12))))
    known = {label: text for label, text in texts.items() if label < n_classes}
    probe = new(name, known).fit(X, y)
    np.testing.assert_allclose(write_formula(probe).logits(asked), probe.logits(asked), rtol=0, atol=1e-12)
    own = {"text": texts[n_classes]} if getattr(PROBES[name], "reads_texts", False) else {}
    more = probe.extend(asked[:3] + 1, n_classes, X, **own)
    np.testing.assert_allclose(write_formula(more).logits(asked), more.logits(asked), rtol=0, atol=1e-12)
    order = np.arange(n_classes)[::-1]
    turned = write_formula(probe).ordered(order).logits(asked)
    np.testing.assert_allclose(turned, probe.logits(asked)[:, order], rtol=0, atol=1e-12)


def test_what_unlabelled_pictures_moved_is_in_the_formula() -> None:
    X, y = features(3, 4, d=12)
    asked, _ = features(3, 20, d=12, seed=1)
    texts = dict(enumerate(np.stack([X[y == label].mean(axis=0) for label in range(3)])))
    probe = TextPriorProbe(texts).fit(X, y, unlabelled=asked)
    assert len(probe.directions_) == 3
    np.testing.assert_allclose(write_formula(probe).logits(asked), probe.logits(asked), rtol=0, atol=1e-12)


def test_a_derived_probe_may_compute_something_else() -> None:
    class Mine(TextPriorProbe):
        pass

    X, y = features(3, 4, d=12)
    with pytest.raises(UsageError, match="got Mine"):
        write_formula(Mine().fit(X, y))
