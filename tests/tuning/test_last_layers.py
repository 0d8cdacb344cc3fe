"""How many last layers train by default."""

from __future__ import annotations

import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.protocol.run_folder import settle_depth
from clip_fewshot.tuning import choose_depth
from tests.backbones.encoders import pair


def test_a_tower_of_clip_leaves_the_number_to_the_study(tiny: Backbone) -> None:
    assert choose_depth(tiny.visual, None) == 5
    assert choose_depth(tiny.visual, 2) == 2


@pytest.mark.parametrize(("image_layers", "usual"), [(0, 0), (2, 2), (None, 5)])
def test_a_pair_trains_what_it_unlocks_unless_more_is_asked_for(image_layers: int | None, usual: int) -> None:
    both = pair(image_layers)
    assert choose_depth(both.visual, None) == usual
    assert choose_depth(both.visual, 3) == 3


def test_a_run_writes_down_the_number_that_it_took(tiny: Backbone) -> None:
    unset = FewShotConfig()
    assert settle_depth(unset, tiny).to_json()["max_unfreeze"] == 5  # as before the number was left to the tower
    locked = settle_depth(unset, pair())
    assert locked.to_json()["max_unfreeze"] == 0
    assert settle_depth(locked, tiny) == locked


def test_auto_compares_on_a_locked_tower_what_trains_without_it(split: OpenWorldSplit) -> None:
    model = FewShotClassifier(pair(), epochs=1).fit(split.support)
    assert {trial.point.unfreeze for trial in model.trials_} == {0}
    heads = {trial.point.approach for trial in model.trials_}
    assert heads == {"zero-shot", "text-prior", "linear-probe", "mlp-arcface", "mlp"}
