"""approach="auto": the main job's choice in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import OpenWorldSplit, draw_support
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import APPROACHES, BASELINES
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.select import select
from clip_fewshot.pipeline import run_few_shot


def auto(backbone: Backbone, **options: object) -> FewShotClassifier:
    return FewShotClassifier(backbone, "auto", epochs=1, **options)  # type: ignore[arg-type]


def test_it_compares_every_baseline_and_approach_and_fits_the_best(tiny: Backbone, split: OpenWorldSplit) -> None:
    model = auto(tiny).fit(split.support)
    assert [trial.point.approach for trial in model.trials_] == [*(a.name for a in BASELINES), *APPROACHES]
    _, best = select(model.trials_, (*BASELINES, *APPROACHES.values()), tiny.visual.n_blocks)
    assert model.approach_.name == model.point.approach == best
    named = FewShotClassifier(tiny, best, epochs=1).fit(split.support)
    np.testing.assert_allclose(model.predict_proba(split.support), named.predict_proba(split.support), atol=0.05)


def test_one_shot_is_a_real_choice(tiny: Backbone, split: OpenWorldSplit) -> None:
    model = auto(tiny).fit(draw_support(split.pool, 1, 0))
    values = {trial.point.approach: trial.value for trial in model.trials_}
    assert set(values) == {a.name for a in BASELINES}
    assert model.approach_.name in ("text-prior", "zero-shot")


def test_what_was_chosen_is_saved_and_read_back(tiny: Backbone, split: OpenWorldSplit, tmp_path: Path) -> None:
    model = auto(tiny).fit(split.support)
    model.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model", tiny)
    assert again.approach == model.approach_.name
    assert np.array_equal(again.predict_proba(split.support), model.predict_proba(split.support))
    assert clone(model).approach == "auto"


def test_options_of_one_approach_are_refused(tiny: Backbone, split: OpenWorldSplit) -> None:
    with pytest.raises(UsageError, match="no options of an approach, got scale"):
        auto(tiny, scale=16.0).fit(split.support)
    with pytest.raises(UsageError, match="fitted"):
        _ = auto(tiny).point


@pytest.mark.slow
def test_the_main_job_chooses_the_same(tmp_path: Path) -> None:
    options = {"data": "digits", "shots": 4, "seeds": 1, "epochs": 2}
    results = run_few_shot(cf.FewShotConfig.of(**options, trials=7, out=str(tmp_path / "run")))
    split = cf.split_open_world(cf.read_dataset("digits"), shots=4, unseen=3)
    model = auto(cf.load_backbone("mini"))
    model.set_params(epochs=2).fit(split.support)
    assert results["best"]["approach"].replace("_", "-") == model.approach_.name
    assert {t["approach"]: t["value"] for t in cf.list_trials(tmp_path / "run").to_frame().to_dict("records")} == (
        pytest.approx({trial.point.approach: trial.value for trial in model.trials_})
    )
