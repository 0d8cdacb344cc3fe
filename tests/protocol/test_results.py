"""Figures for results and page that are computed on the way there."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.conformal.p_values import p_values
from clip_fewshot.open_world.alternatives import Alternative
from clip_fewshot.open_world.rejector import Judge, LabelledRows, Rejector
from clip_fewshot.protocol.final_test import Rejection
from clip_fewshot.protocol.results import novelty_view
from clip_fewshot.types import FloatArray


def rejection(n: int, known: FloatArray) -> Rejection:
    """n calibration pictures at 0, 1, ...; the known test pictures score ``known``, the novel ones lie low."""
    shots = LabelledRows(np.random.default_rng(0).normal(size=(n, 2)), np.arange(n) % 2)
    rejector = Rejector(Alternative("lof", n_neighbors=2), 0, (Judge(None, shots, None),))
    novel = np.array([-3.0, -2.0, 4.5])
    return Rejection(rejector, known, novel, *(p_values(np.arange(float(n)), s) for s in (known, novel)))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.99])
def test_what_scores_below_the_drawn_threshold_is_what_was_flagged(alpha: float) -> None:
    met = rejection(19, np.array([0.5, 0.5, 3.0, 9.0, 30.0]))
    view = novelty_view(met, alpha)
    assert view.threshold is not None
    for scores, p in ((view.known_scores, met.p_known), (view.novel_scores, met.p_novel)):
        assert (scores < view.threshold).tolist() == met.rejector.flags(p, alpha).tolist()


def test_a_refused_rate_draws_no_threshold_and_says_what_it_takes() -> None:
    met = rejection(12, np.array([1.0]))
    assert novelty_view(met, 0.05).threshold is None
    said = "it takes 19 known images to calibrate on, and there are 12; add images, or choose alpha >= 0.077"
    assert met.rejector.refusal(0.05) == said
