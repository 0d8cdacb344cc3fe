"""What a figure is drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.plots.views import NoveltyView

KNOWN, NOVEL = np.array([5.0, 3.0, 4.0]), np.array([2.0, 1.0])


@pytest.mark.parametrize(("flagged", "threshold"), [(0, 1.0), (2, 3.0), (4, 5.0), (None, None)])
def test_the_threshold_is_drawn_at_the_first_score_that_was_not_flagged(
    flagged: int | None, threshold: float | None
) -> None:
    assert NoveltyView.of_scores(KNOWN, NOVEL, flagged).threshold == threshold


def test_where_all_are_flagged_the_threshold_is_above_all() -> None:
    threshold = NoveltyView.of_scores(KNOWN, NOVEL, 5).threshold
    assert threshold is not None
    assert 5 < threshold < 5.001
