"""Unlabelled pictures beside shots: what is left out, what is counted, what is saved, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.screening import STRANGE, drop_copies, screen
from clip_fewshot.few_shot.unlabelled import UnlabelledUse
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.pipeline import run_few_shot
from clip_fewshot.types import FloatArray, LabelArray

C, D = 4, 24


def draw(counts: list[int], seed: int, centre_seed: int = 99) -> tuple[FloatArray, LabelArray]:
    labels = np.repeat(np.arange(C), counts)
    noise = np.random.default_rng(seed).normal(size=(len(labels), D))
    return 2 * np.random.default_rng(centre_seed).normal(size=(C, D))[labels] + noise, labels


def test_strange_pictures_and_copies_are_left_out_and_counted() -> None:
    shots, labels = draw([8] * C, 0)
    known, _ = draw([30] * C, 1)
    strange, _ = draw([10] * C, 2, centre_seed=7)
    given = np.concatenate([known, strange, shots[:5], 3 * shots[5:6]])  # a copy in another length is one too
    kept = screen(given, shots, labels, copies=2)
    assert kept.copies == 2 + 6
    assert len(kept.features) + kept.unknown + kept.copies == len(given) + 2
    rows = {row.tobytes() for row in kept.features}
    assert not rows & {row.tobytes() for row in strange}
    assert len(rows) >= (1 - 2 * STRANGE) * len(known)
    assert rows <= {row.tobytes() for row in known}


def test_what_is_exchangeable_with_the_shots_is_rarely_left_out() -> None:
    left_out = []
    for seed in range(40):
        everyone, labels = draw([25] * C, seed)
        order = np.random.default_rng(seed).permutation(len(labels))
        shots, rest = order[:60], order[60:]
        left_out.append(screen(everyone[rest], everyone[shots], labels[shots]).unknown / len(rest))
    assert np.mean(left_out) <= STRANGE + 2 * np.std(left_out) / np.sqrt(len(left_out))


@pytest.mark.parametrize("shots", [1, 2])
def test_a_few_shots_of_two_classes_are_enough_to_ask(shots: int) -> None:
    rows, labels = draw([shots, shots, 0, 0], 0)
    kept = screen(np.concatenate([rows, rows + 0.01]), rows, labels)
    assert (len(kept.features), kept.copies, kept.unknown) == (2 * shots, 2 * shots, 0)
    assert len(screen(np.empty((0, D)), rows, labels).features) == 0


def test_a_classifier_says_what_became_of_them_and_a_loaded_one_too(
    tiny: Backbone, split: OpenWorldSplit, tmp_path: Path
) -> None:
    shots = split.support
    given = join_images([shots, split.pool, split.pool])
    model = FewShotClassifier(tiny, "text-prior").fit(shots, unlabelled=given)
    used = model.unlabelled_
    assert used is not None
    assert used.used + used.copies + used.unknown == len(given)
    assert used.copies >= len(given) - len(set(given.digests)) + len(shots)
    assert str(used).startswith(f"{used.used:,} of {len(given):,} unlabelled") or used.refused
    model.save(tmp_path / "model")
    loaded = FewShotClassifier.load(tmp_path / "model", tiny)
    assert loaded.unlabelled_ == used
    one = split.pool.subset([0])
    assert np.array_equal(loaded.predict_proba(one), model.predict_proba(one))
    plain = FewShotClassifier(tiny, "text-prior").fit(shots)
    assert plain.unlabelled_ is None
    assert used.refused == np.array_equal(plain.predict_proba(one), model.predict_proba(one))


def test_labels_of_unlabelled_pictures_are_not_read(tiny: Backbone, split: OpenWorldSplit) -> None:
    without = join_images([split.pool])
    found = [
        FewShotClassifier(tiny, "text-prior").fit(split.support, unlabelled=given).predict_proba(split.support)
        for given in (split.pool, without)
    ]
    assert np.array_equal(*found)


@pytest.mark.parametrize("approach", [name for name in OWN if name != "text-prior"])
def test_other_approaches_refuse_them(approach: str, tiny: Backbone, split: OpenWorldSplit) -> None:
    with pytest.raises(UsageError, match="choose 'text-prior', or leave `unlabelled` out"):
        FewShotClassifier(tiny, approach).fit(split.support, unlabelled=split.pool)


def test_the_choice_is_made_with_them(digits: ImageDataset) -> None:
    split = split_open_world(digits, shots=1, seed=0)
    model = FewShotClassifier(load_backbone("mini", device="cpu"), "auto").fit(split.support, unlabelled=split.pool)
    assert model.unlabelled_ is not None
    assert model.unlabelled_.used > 500


def test_a_refusal_is_a_sentence() -> None:
    use = UnlabelledUse(used=50, copies=1, unknown=2, moved=0.0, share=0.0, agreement=0.25, refused=True)
    assert "53 unlabelled pictures not used: with them only 25.0% of the shots" in str(use)


def test_false_alarms_stay_where_they_were_whatever_the_unlabelled_pictures_show(digits: ImageDataset) -> None:
    """The detector's p-values are the same bytes with and without them, and keep their promise."""
    alpha, n, draws, mini = 0.1, 120, 6, load_backbone("mini", device="cpu")
    split = split_open_world(digits, shots=1, unseen=3, seed=0)
    strange = split.novel.open("test").subset(np.arange(60))
    rates, asked = [], 300
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(split.pool))
        known, fresh = split.pool.subset(order[:n]), split.pool.subset(order[n : n + asked])
        given = join_images([strange, known, fresh])  # the very pictures that are asked about, too
        world, plain = (
            OpenWorldClassifier(FewShotClassifier(mini, "text-prior"), detector="knn", alpha=alpha) for _ in range(2)
        )
        answers = world.fit(known, unlabelled=given).predict(fresh)
        used = world.model.unlabelled_
        assert used is not None
        assert used.copies >= n
        assert used.unknown > 20
        if draw == 0:
            without = plain.fit(known).predict(fresh)
            assert [answer.p_value for answer in answers] == [answer.p_value for answer in without]
        rates.append(np.mean([answer.label is None for answer in answers]))
    error = np.sqrt(alpha * (1 - alpha) * (1 / n + 1 / asked) / draws)  # of calibration and test pictures
    assert np.mean(rates) <= alpha + 3 * error


def test_sealed_pictures_never_teach_and_the_main_job_says_so(digits: ImageDataset, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for i in range(0, len(digits), 6):
        digits.open(i).save(folder / f"{i}.png")  # other files than the built-in ones, of the same pixels
    options = {"shots": 2, "unseen": "0", "trials": 1, "seeds": 1, "epochs": 1, "jobs": 1, "device": "cpu"}
    config = FewShotConfig.of(**options, approaches=("text-prior",), unlabelled=str(folder), out=str(tmp_path / "run"))
    told = run_few_shot(config)["unlabelled"]
    assert told["pictures"] == len(range(0, len(digits), 6))
    sealed = split_open_world(digits, shots=2, unseen=0, seed=0).test.open("test")
    assert told["sealed"] == len({*digits.digests[::6]} & {*sealed.digests}) > 50
    for one in told["per_seed"]:
        assert one["used"] + one["copies"] + one["unknown"] == told["pictures"] - told["sealed"]


def test_copies_are_known_by_file_or_by_pixels(digits: ImageDataset) -> None:
    some = digits.subset(np.arange(4))
    assert drop_copies(some, {some.digests[1]}).names == tuple(some.names[i] for i in (0, 2, 3))
    assert len(drop_copies(some, {"other"})) == 4
