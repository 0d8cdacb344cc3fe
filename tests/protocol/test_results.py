"""Figures for results and page that are computed on the way there."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.metrics import log_loss

from clip_fewshot.conformal.p_values import p_values
from clip_fewshot.few_shot.select import TrialRecord, describe_changes
from clip_fewshot.open_world.alternatives import Alternative
from clip_fewshot.open_world.judges import Judge, LabelledRows
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.protocol.final_test import Rejection
from clip_fewshot.protocol.report_views import novelty_view, reliability_curves
from clip_fewshot.protocol.results import method_entry
from clip_fewshot.report.sections import collect_search_facts
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


def test_an_entry_has_each_figure_over_support_sets_and_the_curve_their_pictures_together() -> None:
    rng = np.random.default_rng(0)
    labels, tables = rng.integers(0, 3, 90), [rng.dirichlet(np.ones(3), 90) for _ in range(2)]
    entry = method_entry(labels, tables)
    assert entry["nll"]["mean"] == pytest.approx(np.mean([log_loss(labels, table) for table in tables]))
    assert len(entry["ece"]["per_seed"]) == len(entry["brier"]["per_seed"]) == 2
    assert entry["mean"] == pytest.approx(np.mean([(table.argmax(axis=1) == labels).mean() for table in tables]))
    assert reliability_curves(labels, {"mlp": tables})["mlp"].size.sum() == 180


def trial(number: int, approach: str, value: float, state: str = "COMPLETE") -> TrialRecord:
    return TrialRecord(number, state, {"approach": approach}, (value,), 1.0)


@pytest.mark.parametrize(
    ("trials", "moved", "tied", "said"),
    [
        (
            [trial(0, "mlp", 1.0), trial(1, "contrastive", 1.0), trial(2, "mlp", 1.0)],
            [],
            3,
            "nothing: .*; 3 whole trials",
        ),
        ([trial(0, "mlp", 0.8), trial(1, "mlp", 0.9), trial(2, "mlp", 1.0, "PRUNED")], ["mlp"], 1, "better settings"),
        ([trial(0, "mlp", 0.8)], [], 1, "it began with$"),
        ([], [], 0, "nothing"),
    ],
)
def test_the_page_says_what_the_search_changed(
    trials: list[TrialRecord], moved: list[str], tied: int, said: str
) -> None:
    changes = describe_changes(trials)
    assert changes == {"moved": moved, "tied": tied}
    counts = dict.fromkeys(("finished", "pruned", "failed", "seconds", "naive_seconds_estimate", "test_looks"), 0)
    facts = dict(collect_search_facts({**counts, **changes}))
    assert re.search(said, facts["what it changed"])
