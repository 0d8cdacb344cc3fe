"""An approach of the user's own: trained, searched, saved, loaded in a new process; other code is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.few_shot.approach import APPROACHES, OWN, Approach, Point, Range, find_approach
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.resources import choose_jobs
from clip_fewshot.few_shot.select import keep_trainable
from clip_fewshot.probes.base import FromLogits
from clip_fewshot.types import FloatArray, LabelArray

ROOT = Path(__file__).parents[2]


class CosineHead(nn.Module):
    """Logits are scaled cosines with a direction per class."""

    takes_tokens = False

    def __init__(self, in_features: int, n_classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.in_features, self.n_classes, self.scale = in_features, n_classes, scale
        self.weight = nn.Parameter(torch.randn(n_classes, in_features))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 4."""
    log_p = torch.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    return -((1 - log_p.exp()) ** gamma * log_p).mean()


COSINE = Approach(
    "cosine",
    head=CosineHead,
    loss=focal,
    space={"unfreeze": Range(0, None), "scale": Range(1, 100), "gamma": Range(0.5, 4.0)},
    centre={"unfreeze": 1, "scale": 16, "gamma": 2.0},
)


@pytest.fixture(scope="module")
def fitted(tiny: Backbone, split: OpenWorldSplit) -> FewShotClassifier:
    return FewShotClassifier(tiny, COSINE, head_lr=1e-2, options={"gamma": 1.0}, epochs=2).fit(split.support)


def test_head_and_loss_are_given_their_options(fitted: FewShotClassifier, split: OpenWorldSplit) -> None:
    inner = fitted.model_.head.head  # type: ignore[union-attr]
    assert isinstance(inner, CosineHead)
    assert inner.scale == 16
    assert fitted.point.options == {"unfreeze": 1, "scale": 16, "gamma": 1.0, "head_lr": 1e-2}
    other = FewShotClassifier(fitted.backbone, COSINE, head_lr=1e-2, options={"gamma": 4.0}, epochs=2)
    assert not np.array_equal(other.fit(split.support).predict_proba(split.pool), fitted.predict_proba(split.pool))


def test_saved_and_loaded_in_a_new_process_with_the_part_passed(
    fitted: FewShotClassifier, split: OpenWorldSplit, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"trusted=\{'cosine'"):
        FewShotClassifier.load(tmp_path / "m", fitted.backbone)
    program = (
        "import sys, numpy as np; from tests.few_shot.test_approach import COSINE; from tests.conftest import TINY\n"
        "from clip_fewshot.backbones.backbone import build_backbone; from clip_fewshot import *\n"
        "from clip_fewshot import FewShotClassifier, read_dataset, split_open_world\n"
        "split = split_open_world(read_dataset('digits'), shots=4, unseen=3, seed=0)\n"
        "backbone = build_backbone(TINY, seed=0, name='tiny')\n"
        "model = FewShotClassifier.load(sys.argv[1], backbone, trusted={'cosine': COSINE})\n"
        "np.save(sys.argv[2], model.predict(split.pool))"
    )
    run = [sys.executable, "-c", program, str(tmp_path / "m"), str(tmp_path / "answers.npy")]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "answers.npy").tolist() == fitted.predict(split.pool).tolist()


def test_other_code_under_the_same_name_is_refused(fitted: FewShotClassifier, tmp_path: Path) -> None:
    class Other(CosineHead):
        """Looks the same and is not."""

    fitted.save(tmp_path / "m")
    changed = Approach("cosine", head=Other, loss=focal, centre=COSINE.centre)
    with pytest.raises(ArtifactError, match="with other source text"):
        FewShotClassifier.load(tmp_path / "m", fitted.backbone, trusted={"cosine": changed})


def test_other_code_under_the_name_of_a_head_is_refused(
    tiny: Backbone, split: OpenWorldSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Approach("named", head=f"python:{__name__}:CosineHead", loss=focal)
    FewShotClassifier(tiny, named, unfreeze=0, epochs=1).fit(split.support).save(tmp_path / "m")
    FewShotClassifier.load(tmp_path / "m", tiny, trusted={"named": named})

    class Other(CosineHead):
        """Looks the same and is not."""

    monkeypatch.setattr(sys.modules[__name__], "CosineHead", Other)
    with pytest.raises(ArtifactError, match="with other source text"):
        FewShotClassifier.load(tmp_path / "m", tiny, trusted={"named": named})


class SharpMeans(FromLogits):
    """Logits are inner products with the mean of each class, times an option."""

    def __init__(self, sharpness: float = 1.0) -> None:
        self.sharpness_ = sharpness

    def fit(self, X: FloatArray, y: LabelArray) -> SharpMeans:
        self.classes_ = np.unique(y)
        self.means_ = np.array([X[y == label].mean(axis=0) for label in self.classes_])
        return self

    def logits(self, X: FloatArray) -> FloatArray:
        return np.asarray(self.sharpness_ * X @ self.means_.T)

    def extend(self, X: FloatArray, label: object, known: FloatArray | None = None) -> SharpMeans:
        raise NotImplementedError


SHARP = Approach(
    "sharp",
    towers="none",
    ends_in="probe",
    probe=SharpMeans,
    space={"sharpness": Range(0.5, 8.0, log=True)},
    centre={"sharpness": 2.0},
)


def test_the_options_of_an_approach_that_trains_no_tower_go_to_its_probe(
    tiny: Backbone, split: OpenWorldSplit, tmp_path: Path
) -> None:
    model = FewShotClassifier(tiny, SHARP).fit(split.support)
    assert model.model_.probe.sharpness_ == 2.0  # type: ignore[union-attr]
    model.save(tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"trusted=\{'sharp'"):
        FewShotClassifier.load(tmp_path / "m", tiny)
    read = FewShotClassifier.load(tmp_path / "m", tiny, trusted={"sharp": SHARP})
    assert np.array_equal(read.predict_proba(split.pool), model.predict_proba(split.pool))
    sharper = FewShotClassifier(tiny, SHARP, options={"sharpness": 4.0}).fit(split.support)
    assert not np.allclose(sharper.predict_proba(split.pool), model.predict_proba(split.pool))


def test_a_clone_has_the_settings_and_shares_the_backbone(fitted: FewShotClassifier) -> None:
    copy = clone(fitted)
    assert copy.backbone is fitted.backbone
    assert copy.get_params(deep=False) == fitted.get_params(deep=False)
    assert not hasattr(copy, "model_")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Approach("x", head=CosineHead), "a head and a loss"),
        (lambda: Approach("x", loss=focal, towers="both"), "ends_in"),
        (lambda: Approach("x", head="mlp", loss=focal, space={"margin": Range(0.0, 1.0)}), "centre"),
        (
            lambda: Approach("x", loss=focal, towers="both", ends_in="probe", space={"unfreeze": Range(0, None)}),
            "search from 1 on",
        ),
        (lambda: Approach("x", head="mlp", loss=focal, probe="cache"), "no probe beside a head"),
        (lambda: find_approach("mpl"), "mlp-arcface"),
        (lambda: keep_trainable([APPROACHES["contrastive"]], 0), "contrastive .*nothing trains"),
        (lambda: find_approach(Approach("mlp", head=CosineHead, loss=focal)), "a name of its own"),
        (lambda: find_approach(f"python:{__name__}:focal"), "an Approach"),
        (lambda: APPROACHES["mlp"].at({"unfrozen": 2}), "unfrozen"),
    ],
)
def test_mistakes_are_named(make: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()  # type: ignore[operator]


def test_without_unfrozen_layers_only_heads_take_part() -> None:
    every = list(APPROACHES.values())
    kept, left = keep_trainable(every, 0)
    assert [approach.name for approach in kept] == ["mlp-arcface", "mlp"]
    assert [sentence.partition(" (")[0] for sentence in left] == ["left out: contrastive-arcface, contrastive"]
    assert keep_trainable(every, 1) == (tuple(every), ())


def test_a_head_that_does_not_know_an_option_says_so(tiny: Backbone, split: OpenWorldSplit) -> None:
    with pytest.raises(UsageError, match="sharpness"):
        FewShotClassifier(tiny, COSINE, options={"sharpness": 3.0}).fit(split.support)
    with pytest.raises(UsageError, match="a probe that takes dullness"):
        FewShotClassifier(tiny, replace(SHARP, space={}, centre={"dullness": 1.0})).fit(split.support)


@given(name=st.sampled_from([*OWN]), unfreeze=st.integers(0, 5), margin=st.floats(0, 0.5))
def test_a_point_comes_back_from_the_form_that_files_hold(name: str, unfreeze: int, margin: float) -> None:
    point = OWN[name].at({"unfreeze": unfreeze, "margin": margin})
    assert Point.from_json(point.to_json()) == point
    assert set(point.to_json()) >= {"approach", "unfreeze", "backbone_lr", "head_lr", "margin", "scale"}


def test_what_cannot_travel_trains_in_one_process_and_says_why() -> None:
    class Local(CosineHead):
        """Is found by no other process."""

    assert choose_jobs([COSINE, *APPROACHES.values()], 2) == 2
    local = Approach("local", head=Local, loss=focal)
    with pytest.warns(RuntimeWarning, match="one process instead of 2: .*Local"):
        assert choose_jobs([local], 2) == 1
    assert choose_jobs([local], 1) == 1
