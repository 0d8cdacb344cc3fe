"""What a data scientist tries in a notebook: it works, or the library says in its own words what to do instead."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.base import clone
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.data.collect import collect_images
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.discovery.base import Discovery
from clip_fewshot.evaluation.intervals import paired_difference
from clip_fewshot.open_world.answers import Answer
from clip_fewshot.runtime.result_rows import ResultRows
from tests.conftest import TINY

N_CLASSES, PER_CLASS = 2, 6


class Torch(torch.utils.data.Dataset[Any]):
    """A map-style dataset as torchvision's: tensors, numbered labels and the names of these."""

    classes = ("circle", "square")

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(ARRAYS[row]).permute(2, 0, 1), NUMBERS[row]

    def __len__(self) -> int:
        return len(ARRAYS)


class Named:
    names = Torch.classes


class HuggingFace(list[dict[str, Any]]):
    """Rows by column, and the names of the labels in ``features``, as ``datasets.Dataset`` has them."""

    features: ClassVar = {"img": object(), "label": Named()}


def draw() -> list[np.ndarray]:
    """Grey levels that differ by class, so that a linear probe tells them."""
    rng = np.random.default_rng(0)
    levels = [60 + 130 * (i % N_CLASSES) for i in range(N_CLASSES * PER_CLASS)]
    return [np.clip(rng.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8) for level in levels]


ARRAYS = draw()
PICTURES = [Image.fromarray(array) for array in ARRAYS]
NUMBERS = [i % N_CLASSES for i in range(len(ARRAYS))]
NAMES = [Torch.classes[number] for number in NUMBERS]


@pytest.fixture(scope="module")
def backbone() -> cf.Backbone:
    return build_backbone(TINY, seed=0, name="tiny")


@pytest.fixture
def model(backbone: cf.Backbone) -> cf.FewShotClassifier:
    return cf.FewShotClassifier(backbone, "linear-probe")


@pytest.fixture(scope="module")
def world(split: OpenWorldSplit) -> cf.OpenWorldClassifier:
    model = cf.FewShotClassifier(cf.load_backbone("mini"), "linear-probe")
    found = cf.OpenWorldClassifier(model, detector="knn", alpha=0.2).fit(split.support)
    found.predict(collect(split, 60))
    found.discover()
    return found


def collect(split: OpenWorldSplit, n: int) -> cf.ImageDataset:
    return split.novel.open("a test").subset(np.arange(n))


def save(folder: Path) -> list[str]:
    for i, picture in enumerate(PICTURES):
        picture.save(folder / f"{i:02}.png")
    return [str(path) for path in sorted(folder.glob("*.png"))]


BATCH = np.stack(ARRAYS)
INPUTS: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "paths and names": lambda folder: (save(folder), NAMES),
    "columns of a frame": lambda folder: (pandas.Series(save(folder)), pandas.Series(NAMES)),
    "a frame of paths": lambda folder: (pandas.DataFrame({"path": save(folder), "label": NAMES}), None),
    "a frame of pictures": lambda folder: (pandas.DataFrame({"image": PICTURES, "class": NAMES}), None),
    "a frame whose columns are called like parts of a dataset": lambda folder: (
        pandas.DataFrame({"image": PICTURES, "label": NAMES, "classes": NAMES, "dataset": NAMES}),
        None,
    ),
    "a column as a frame": lambda folder: (pandas.DataFrame({"x": PICTURES}), NAMES),
    "arrays": lambda folder: (ARRAYS, NAMES),
    "a batch": lambda folder: (BATCH, np.array(NAMES)),
    "fractions": lambda folder: (BATCH / 255, NAMES),
    "grey pictures": lambda folder: (BATCH[..., 0], NAMES),
    "one channel": lambda folder: (BATCH[..., :1], NAMES),
    "with alpha": lambda folder: (np.concatenate([BATCH, np.full_like(BATCH[..., :1], 255)], axis=3), NAMES),
    "a batch of tensors": lambda folder: (torch.from_numpy(BATCH).permute(0, 3, 1, 2), NAMES),
    "tensors of fractions": lambda folder: ([torch.from_numpy(a).permute(2, 0, 1) / 255 for a in ARRAYS], NAMES),
    "a torch dataset": lambda folder: (Torch(), None),
    "a subset of one": lambda folder: (torch.utils.data.Subset(Torch(), range(len(ARRAYS))), None),
    "rows by column": lambda folder: ([{"image": p, "label": n} for p, n in zip(PICTURES, NAMES, strict=True)], None),
    "a Hugging Face dataset": lambda folder: (
        HuggingFace({"img": p, "label": n} for p, n in zip(PICTURES, NUMBERS, strict=True)),
        None,
    ),
    "pairs": lambda folder: (list(zip(PICTURES, NAMES, strict=True)), None),
}


LABELLED = (
    "a frame of pictures",
    "a torch dataset",
    "a subset of one",
    "rows by column",
    "a Hugging Face dataset",
    "pairs",
)


@pytest.mark.parametrize("name", INPUTS)
def test_every_kind_of_input_is_the_same_pictures(name: str, tmp_path: Path) -> None:
    images, labels = INPUTS[name](tmp_path)
    found = collect_images(images, labels, "fit")
    assert found.label_space.decode(found.required_labels()) == NAMES
    grey = name in {"grey pictures", "one channel"}
    for i, array in enumerate(ARRAYS):
        assert np.array_equal(np.asarray(found.open(i)), np.repeat(array[..., :1], 3, axis=2) if grey else array)


@pytest.mark.parametrize("labels", [NUMBERS, np.array(NUMBERS), torch.tensor(NUMBERS), pandas.Series(NUMBERS)])
def test_whole_numbers_come_back_as_whole_numbers(labels: Any, model: cf.FewShotClassifier, tmp_path: Path) -> None:
    model.fit(BATCH, labels)
    assert model.classes_.tolist() == [0, 1]
    assert model.predict(BATCH).dtype == np.int64
    assert "precision" in classification_report(NUMBERS, model.predict(BATCH))
    model.save(tmp_path / "model")
    loaded = cf.FewShotClassifier.load(tmp_path / "model", model.backbone)
    assert loaded.predict(BATCH).tolist() == model.predict(BATCH).tolist()
    assert loaded.classes_.dtype == np.int64


def test_a_named_class_taken_back_gives_whole_numbers_again(world: cf.OpenWorldClassifier, tmp_path: Path) -> None:
    model = cf.FewShotClassifier(world.model.backbone, "linear-probe")
    again = cf.OpenWorldClassifier(model, detector="knn", alpha=0.2).fit(ARRAYS, NUMBERS)
    again.name([Image.new("RGB", (16, 16), "red")], "red")
    again.save(tmp_path / "world")
    loaded = cf.OpenWorldClassifier.load(tmp_path / "world", model.backbone)
    assert loaded.classes_.tolist() == again.classes_.tolist() == ["0", "1", "red"]
    for one in (again, loaded):
        one.undo()
        assert one.classes_.tolist() == [0, 1]


def test_no_attribute_of_a_fit_is_there_before_one(model: cf.FewShotClassifier, world: cf.OpenWorldClassifier) -> None:
    for name in ("classes_", "known_", "alpha_", "discovery_", "foo"):
        assert not hasattr(cf.OpenWorldClassifier(model), name)
    with pytest.raises(AttributeError, match="no attribute 'foo_'"):
        _ = world.foo_


def test_a_model_without_a_detector_has_no_scores_to_draw(world: cf.OpenWorldClassifier) -> None:
    bare = cf.OpenWorldClassifier.from_fit(world.model, None, None, world.reference_)
    with pytest.raises(cf.UsageError, match="plot_scores: expected a model with a detector"):
        bare.plot_scores(ARRAYS, ARRAYS)


def test_many_whole_numbers_are_in_the_order_of_numbers() -> None:
    found = collect_images(ARRAYS, [3, 20, 100] * 4)
    assert found.label_space.to_array().tolist() == [3, 20, 100]
    assert found.restrict(["20", "100"]).label_space.to_array().tolist() == [20, 100]


def test_labels_of_the_source_are_left_alone_where_none_are_asked_for() -> None:
    frame = pandas.DataFrame({"image": PICTURES, "label": [None] * len(PICTURES)})
    assert collect_images(frame).labels is None
    assert collect_images(frame, NAMES, "fit").required_labels().tolist() == NUMBERS


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_pictures_at_hand_are_a_dataset(name: str, tmp_path: Path) -> None:
    found = cf.read_dataset(INPUTS[name](tmp_path)[0])
    assert found.label_space.decode(found.required_labels()) == NAMES
    assert cf.split_open_world(found, shots=2).seen.names == Torch.classes


MISTAKES: dict[str, tuple[Callable[[cf.FewShotClassifier], Any], str]] = {
    "one picture": (lambda m: m.fit(PICTURES[0], ["a"]), "expected a list of pictures, got one picture; write"),
    "one array": (lambda m: m.fit(ARRAYS[0], NAMES), r"pictures \(n, h, w, 3\), got an array of shape \(16, 16, 3\)"),
    "one tensor": (lambda m: m.fit(torch.zeros(3, 8, 8), NAMES), r"shape \(3, 8, 8\); write \[picture\]"),
    "a number as an array": (lambda m: m.fit(np.array(5), NAMES), r"got an array of shape \(\)"),
    "a pair and a picture": (
        lambda m: m.fit([(PICTURES[0], "a"), PICTURES[1]]),
        r"images\[1\].*a Image unlike the first",
    ),
    "a row that lacks a column": (
        lambda m: m.fit([{"image": PICTURES[0], "label": "a"}, {"image": PICTURES[1]}]),
        r"images\[1\].*a dict unlike the first",
    ),
    "features": (lambda m: m.fit(np.zeros((8, 512)), NAMES), "features are no pictures"),
    "rows of five channels": (lambda m: m.fit(np.zeros((2, 8, 8, 5)), "ab"), r"images\[0\].*shape \(8, 8, 5\)"),
    "normalised tensors": (lambda m: m.fit(torch.randn(12, 3, 8, 8), NAMES), "fractions in .* got float32 from -"),
    "larger numbers": (lambda m: m.fit(BATCH.astype(int), NAMES), "got int64 from"),
    "a number": (lambda m: m.fit(3, NAMES), "list of pictures, got a int"),
    "numbers": (lambda m: m.fit([1, 2], ["a", "b"]), r"images\[0\].*got a int; give paths, PIL pictures, or arrays"),
    "no column of pictures": (
        lambda m: m.fit(pandas.DataFrame({"a": [1], "b": [2]})),
        "column of pictures, got a, b",
    ),
    "a split too many": (lambda m: m.fit({"train": HuggingFace()}), "list of pictures, got a dict of train; pass one"),
    "pictures inside tables": (
        lambda m: m.fit([pandas.DataFrame({"image": [one]}) for one in PICTURES], NAMES),
        r"images\[0\].*got object values; .* with_format\(None\)",
    ),
    "a sealed set to read": (
        lambda m: cf.read_dataset(cf.split_open_world(collect_images(ARRAYS, NAMES), shots=1).test),  # type: ignore[arg-type]
        "got a SealedSet",
    ),
    "another folder for pictures at hand": (
        lambda m: cf.read_dataset(PICTURES, root="photos"),
        "`root`: expected pictures on disk, got pictures at hand",
    ),
    "a label that has no name": (lambda m: m.fit(HuggingFace([{"img": PICTURES[0], "label": 2}])), r"label in 0..1"),
    "fewer labels": (lambda m: m.fit(ARRAYS, ["a"]), "12 labels, got 1 for 12 pictures"),
    "labels that are no names": (lambda m: m.fit(ARRAYS, [0.5] * 12), "texts or whole numbers, got 0.5"),
    "no labels": (lambda m: m.fit(ARRAYS), "labelled images"),
    "a name for a backbone": (lambda m: cf.FewShotClassifier("mini").fit(ARRAYS, NAMES), "load_backbone"),  # type: ignore[arg-type]
    "a name for a model": (lambda m: cf.OpenWorldClassifier("mini").fit(ARRAYS, NAMES), "FewShotClassifier"),  # type: ignore[arg-type]
    "a rate in quotes": (
        lambda m: cf.FewShotClassifier(m.backbone, "mlp", head_lr="1e-3").fit(ARRAYS, NAMES),  # type: ignore[arg-type]
        "head_lr .* got '1e-3'",
    ),
    "labels of a head that are fractions": (lambda m: cf.ArcFaceHead(8, 3)(torch.ones(2, 8), torch.ones(2)), "integer"),
    "an answer before a fit": (lambda m: m.predict(ARRAYS), "call fit first"),
    "a drawing before a fit": (lambda m: m.plot_confusion(ARRAYS, NAMES), "call fit first"),
    "answers before a fit": (lambda m: cf.OpenWorldClassifier(m).predict(ARRAYS), "known_: .* call fit first"),
    "a score before a fit": (lambda m: cf.OpenWorldClassifier(m).score(ARRAYS, NAMES), "call fit first"),
    "a discovery before a fit": (lambda m: cf.OpenWorldClassifier(m).discover(), "call fit first"),
    "a file before a fit": (lambda m: cf.OpenWorldClassifier(m).save("nowhere"), "call fit first"),
    "scores before a fit": (lambda m: cf.OpenWorldClassifier(m).plot_scores(ARRAYS, ARRAYS), "call fit first"),
    "a shift before a fit": (lambda m: cf.OpenWorldClassifier(m).find_shift(ARRAYS), "call fit first"),
    "groups before a fit": (lambda m: cf.OpenWorldClassifier(m).plot_groups(), "then call discover"),
    "more shots than there are": (
        lambda m: cf.split_open_world(collect_images(ARRAYS, NAMES), shots=25),
        r"use `shots`=\d",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_in_our_own_words(name: str, model: cf.FewShotClassifier) -> None:
    attempt, words = MISTAKES[name]
    with pytest.raises(cf.ClipFewShotError, match=words):
        attempt(model)


SETS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "pictures": lambda: (PICTURES, NAMES),
    "arrays and numbers": lambda: (BATCH, np.array(NUMBERS)),
    "a column": lambda: (pandas.DataFrame({"image": PICTURES, "label": NAMES}), pandas.Series(NAMES)),
    "a dataset": lambda: (collect_images(PICTURES, NAMES), NAMES),
}


@pytest.mark.parametrize("name", SETS)
def test_scikit_learn_validates_searches_and_chains_the_classifier(name: str, model: cf.FewShotClassifier) -> None:
    X, y = SETS[name]()
    assert cross_val_score(model, X, y, cv=2, error_score="raise").tolist() == [1, 1]
    search = GridSearchCV(model, {"probe": ["logistic", "prototype"]}, cv=2, error_score="raise").fit(X, y)
    assert set(search.best_params_) == {"probe"}
    assert search.score(X, y) == 1
    assert search.classes_.tolist() == sorted(set(y))
    chain = Pipeline([("same", FunctionTransformer()), ("classify", model)]).fit(X, y)
    assert (chain.predict(X) == np.asarray(y)).all()
    _, test, _, truth = train_test_split(X, y, stratify=y, random_state=0)
    assert len(test) == len(truth) == 3


def test_a_clone_shares_the_backbone_and_nothing_that_was_learned(model: cf.FewShotClassifier) -> None:
    copy = clone(model.fit(ARRAYS, NAMES))
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "classes_")
    assert copy.backbone is model.backbone


def share_unknown(world: cf.OpenWorldClassifier, X: Any, y: Any) -> float:
    """A scorer of one's own, as docs/notebook.md shows one."""
    return float(np.mean([answer.label is None for answer in world.predict(X)]))


def test_scikit_learn_takes_the_open_world_too(backbone: cf.Backbone, model: cf.FewShotClassifier) -> None:
    world = cf.OpenWorldClassifier(model, detector="knn", alpha=0.3)
    assert world.get_params()["model__approach"] == "linear-probe"
    copy = clone(world).set_params(alpha=0.4, model__epochs=3)
    assert (world.alpha, copy.alpha, copy.model.epochs, world.model.epochs) == (0.3, 0.4, 3, 20)
    scores = cross_val_score(world, PICTURES, NAMES, cv=2, error_score="raise")
    assert ((scores >= 0) & (scores <= 1)).all()
    scorers = {"right": cf.OpenWorldClassifier.score, "unknown": share_unknown}
    found = cross_validate(world, PICTURES, NAMES, cv=2, scoring=scorers, error_score="raise")
    assert found["test_right"].tolist() == scores.tolist()
    assert ((found["test_unknown"] >= 0) & (found["test_unknown"] <= 1)).all()
    search = GridSearchCV(world, {"alpha": [0.3, 0.5]}, cv=2, error_score="raise").fit(PICTURES, NAMES)
    assert search.best_estimator_.classes_.tolist() == list(Torch.classes)
    assert search.best_estimator_.evaluate(PICTURES, NAMES).n_test == len(PICTURES)


def test_features_are_an_array(split: OpenWorldSplit, backbone: cf.Backbone) -> None:
    features = cf.encode_images(backbone, split.support)
    assert np.array_equal(np.asarray(features), features.features)
    assert np.asarray(features, dtype=np.float64).dtype == np.float64
    assert np.array(features) is not features.features
    assert np.array_equal(np.array(features, copy=True), features.features)


def test_what_is_printed_is_short(split: OpenWorldSplit, world: cf.OpenWorldClassifier) -> None:
    answers = world.predict(collect(split, 60))
    objects = [
        *(world, world.model, world.model.backbone, split, split.support, split.seen, answers, answers[0]),
        *(world.discover(), world.discovery_, world.known_, world.rejector_, world.model.model_, world.unknown_),
        *(cf.encode_images(world.model.backbone, split.support), cf.ArcFaceHead(512, 8), cf.MLPHead(512, 8)),
        cf.LabelSpace(tuple(f"class {i}" for i in range(1000))),
        world.model.evaluate(split.support),
    ]
    for shown in objects:
        assert repr(shown).count("\n") < 10, repr(shown)
        assert len(repr(shown)) < 2000, repr(shown)
        assert " object at 0x" not in repr(shown)
    assert repr(answers).endswith("... and 55 more]")
    assert repr(ResultRows([1, 2])) == "[1,\n 2]"
    assert repr(Discovery(np.array([0, 0, -1]), 1, np.empty((0, 4)), np.array([0]), interval=(1, 2))) == (
        "Discovery(1 group (90 % [1, 2]), 1 of 3 images in none, by ward)"
    )


def test_figures_are_printed_as_they_are_read() -> None:
    right = np.arange(100) < 90
    assert str(cf.accuracy_interval([right])) == "0.900 [0.826, 0.945]"
    assert repr(cf.accuracy_interval([right])) == "EvalResult(0.900 [0.826, 0.945], n_test=100)"
    assert repr(cf.accuracy_interval([right, right])) == "EvalResult(0.900 [0.824, 0.945], n_test=100, 2 seeds)"
    better = paired_difference([right, right], [right & (np.arange(100) > 9), right])
    assert str(better).startswith("+0.050 [-0.")
    assert repr(better).startswith("PairedDifference(+0.050 [-0.")
    assert repr(better).endswith(", ahead on 1 of 2 seeds)")
    answer = Answer("cat", 0.51234, -0.98765, (("cat", 0.87654), ("dog", 0.12346)), possible=("cat",))
    shown = "Answer(label='cat', p_value=0.512, score=-0.988, top=('cat' 0.877, 'dog' 0.123), possible=('cat',))"
    assert repr(answer) == shown


def test_a_notebook_shows_pictures(split: OpenWorldSplit, world: cf.OpenWorldClassifier) -> None:
    pictures = collect(split, 60)
    answers, groups = world.predict(pictures), world.discover()
    counted = [
        (answers, 24, "and 36 more"),
        (groups, sum(min(8, len(group)) for group in groups), "nearest to"),
        (groups[0], 8, "nearest to"),
        (split, 24, "and 4 more"),
        (split.support, 7, "zero: 4"),
    ]
    for what, n, words in counted:
        cell = what._repr_html_()
        assert cell.count("<img ") == n
        assert words in cell
        assert "http" not in cell
    assert f"{sum(answer.label is None for answer in answers)} unknown" in answers._repr_html_()
    first = float(re.findall(r"\(p ([0-9.]+)\)", answers._repr_html_())[0])
    doubtful = max(answers, key=lambda answer: answer.measure_doubt(world.alpha_))
    assert first == pytest.approx(doubtful.p_value, abs=1e-3)
    assert split.novel.purposes.count("a test") == split.novel.looks  # no cell opens a sealed set


def test_a_notebook_draws_the_smallest_pictures_large_enough_to_see() -> None:
    small, large = (collect_images([Image.new("RGB", (side, side))])._repr_html_() for side in (10, 64))
    assert "width:64px;image-rendering:pixelated" in small
    assert "pixelated" not in large


def test_a_notebook_survives_names_and_files_of_strangers(tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "a.png")
    found = cf.read_images([tmp_path / "a.png"])
    (tmp_path / "a.png").unlink()
    assert "not to be read any more" in found._repr_html_()
    hostile = collect_images(PICTURES[:2], ["<script>alert(1)</script>", "b\x1b[31m"])
    assert "<script>" not in hostile._repr_html_()
    assert "\x1b" not in hostile._repr_html_()


def test_answers_and_groups_and_datasets_become_frames(split: OpenWorldSplit, world: cf.OpenWorldClassifier) -> None:
    answers, groups = world.predict(collect(split, 60)), world.discover()
    assert len(answers.to_frame()) == 60
    assert pickle.loads(pickle.dumps(answers)) == answers
    frame = groups.to_frame()
    assert list(frame.columns) == ["group", "pictures", "nearest", "cosine"]
    assert frame.pictures.tolist() == [len(group) for group in groups]
    frame = split.support.to_frame()
    again = collect_images(frame, purpose="fit")
    assert again.label_space.decode(again.required_labels()) == frame.label.tolist()


def test_drawings_are_matplotlib_figures(split: OpenWorldSplit, world: cf.OpenWorldClassifier) -> None:
    pictures = collect(split, 30)
    drawn = [
        world.model.plot_confusion(split.support),
        world.model.plot_reliability(split.support),
        world.plot_groups(),
        world.plot_scores(split.support, pictures),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)
    assert ">zero<" in drawn[0].to_svg()
    labels = split.support.label_space.decode(split.support.required_labels())
    assert world.model.plot_confusion(split.support.images, labels).to_svg() == drawn[0].to_svg()
