"""The module of a whole classifier answers as the classifier does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import resize_crop
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import Recipe, encode_frozen, prepare_support
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.fitted import Fitted
from clip_fewshot.open_world.onnx import NO_CLASS_NUMBER, AnswerGraph, build_answer_graph
from clip_fewshot.open_world.rejector import fit_rejector


@pytest.fixture(scope="module")
def six(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=6, unseen=["three", "eight"], seed=0)


@pytest.fixture(scope="module")
def fresh(six: OpenWorldSplit) -> ImageDataset:
    """Pictures of known and unknown classes, none of them a known one: that ties with itself, to rounding."""
    known = set(six.support.digests)
    rows = [i for i in range(0, 200, 5) if six.pool.digests[i] not in known]
    return join_images([six.pool.subset(rows), six.novel.open("test").subset(range(0, 300, 12))])


def build(world: OpenWorldClassifier) -> AnswerGraph:
    world.calibrate_quickly()
    fitted = Fitted(world.model.model_, world.model.label_space_, world.rejector_, world.known_)
    return build_answer_graph(world.model.backbone, fitted, world.alpha_)


def run(graph: AnswerGraph, pictures: ImageDataset, size: int) -> dict[str, Any]:
    squares = np.stack([np.asarray(resize_crop(pictures.open(i), size)) for i in range(len(pictures))])
    with torch.no_grad():
        found = graph(torch.from_numpy(squares.transpose(0, 3, 1, 2).copy()))
    return dict(zip(graph.outputs, [one.numpy() for one in found], strict=True))


def compare(world: OpenWorldClassifier, pictures: ImageDataset) -> dict[str, Any]:
    """What the module says, after it was compared with the classifier."""
    found = run(build(world), pictures, world.model.backbone.image_size)
    names = world.model.label_space_.names
    answers = world.judge(world.look(pictures), top=len(names))
    said = [NO_CLASS_NUMBER if answer.label is None else names.index(answer.label) for answer in answers]
    np.testing.assert_array_equal(found["label"], said)
    ranked = [[dict(answer.top)[name] for name in names] for answer in answers]
    np.testing.assert_allclose(found["probabilities"], ranked, rtol=0, atol=1e-6)
    if world.rejector_ is not None:
        np.testing.assert_allclose(found["p_value"], [answer.p_value for answer in answers], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found["score"], [answer.score for answer in answers], rtol=1e-5, atol=1e-5)
    if "possible" in found:
        inside = [[name in (answer.possible or ()) for name in names] for answer in answers]
        np.testing.assert_array_equal(found["possible"], inside)
    assert ("possible" in found) == (answers[0].possible is not None)
    return found


@pytest.mark.parametrize(
    ("approach", "detector", "options"),
    [
        ("linear-probe", "knn", {}),
        ("text-prior", "text-margin", {}),
        ("zero-shot", "class-mean", {"per_class": True, "alpha": 0.15}),
    ],
)
def test_a_probe_on_frozen_features(
    approach: str, detector: str, options: dict[str, Any], tiny: Backbone, six: OpenWorldSplit, fresh: ImageDataset
) -> None:
    world = OpenWorldClassifier(FewShotClassifier(tiny, approach), detector, **options).fit(six.support)
    found = compare(world, fresh)
    assert {"p_value", "score", "possible"} <= found.keys()
    assert len(np.unique(found["p_value"])) > 5
    assert found["possible"].any()
    assert not found["possible"].all()


def test_a_class_that_is_known_by_its_name_stays_whatever_the_detector_says(
    six: OpenWorldSplit, fresh: ImageDataset
) -> None:
    backbone = load_backbone("mini", device="cpu")  # it reads the names of digits
    world = OpenWorldClassifier(FewShotClassifier(backbone, "zero-shot"), "mahalanobis", alpha=0.3).fit(six.support)
    world.add_class("three")
    world.add_class("eight", six.novel.open("test").subset(np.arange(1, 5)))
    found = compare(world, fresh)
    by_name = world.model.label_space_.names.index("three")
    assert ((found["label"] == by_name) & (found["p_value"] <= 0.3)).any()


CHOICES = {
    "depth": Alternative("mahalanobis-margin", "frozen and depth 1"),
    "names beside depth": Alternative("text-margin", "frozen and depth 1"),
    "depth of an earlier release": Alternative("mahalanobis", "depth 1"),
    "both": Alternative("knn", "both", 3),
    "tuned": Alternative("class-mean", "tuned"),
    "folds of frozen features": Alternative("energy"),
    "names alone": Alternative("mcm"),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_a_head_on_tuned_layers_with_a_detector_in_any_space(
    kind: str, tiny: Backbone, six: OpenWorldSplit, fresh: ImageDataset
) -> None:
    data = prepare_support(tiny, six.support, [0, 1, 2], views=1, seed=0)
    settings = TrainSettings(epochs=1, min_steps=6)
    recipe = Recipe(OWN["mlp"], OWN["mlp"].point, settings, probe_c=1.0, seed=0)
    names = six.support.label_space.names
    rejector = fit_rejector(tiny, recipe, data, encode_frozen(data), NoveltyChoice(CHOICES[kind]), names=names)
    model = FewShotClassifier(tiny, "mlp", unfreeze=2, epochs=1).fit(six.support)
    compare(
        OpenWorldClassifier.from_fit(model, rejector, 0.1, (encode_frozen(data), data.labels)),
        fresh,
    )


def test_a_bare_classifier_says_nothing_of_what_is_unknown(
    tiny: Backbone, six: OpenWorldSplit, fresh: ImageDataset
) -> None:
    model = FewShotClassifier(tiny, "linear-probe").fit(six.support)
    nothing = np.empty((0, 0)), np.empty(0, dtype=np.int64)
    found = compare(OpenWorldClassifier.from_fit(model, None, None, nothing), fresh)
    assert found.keys() == {"label", "probabilities"}


def test_too_few_pictures_for_alpha_call_nothing_unknown(
    tiny: Backbone, digits: ImageDataset, fresh: ImageDataset
) -> None:
    split = split_open_world(digits, shots=2, unseen=["three", "eight"], seed=0)
    model = FewShotClassifier(tiny, "linear-probe").fit(split.support)
    world = OpenWorldClassifier(model, "class-mean", alpha=0.1).fit(split.support)
    world.alpha = 0.01
    found = compare(world, fresh)
    assert (found["label"] != NO_CLASS_NUMBER).all()


@pytest.mark.slow
def test_the_module_does_not_depend_on_the_number_of_pictures(tiny: Backbone, six: OpenWorldSplit) -> None:
    world = OpenWorldClassifier(FewShotClassifier(tiny, "text-prior"), "text-margin").fit(six.support)
    example = torch.zeros((2, 3, tiny.image_size, tiny.image_size), dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1 << 20)},)
    with torch.no_grad():
        program = torch.export.export(build(world), (example,), dynamic_shapes=shapes, strict=False)
    assert [len(program.module()(example[:1].expand(n, -1, -1, -1))[0]) for n in (1, 3, 64)] == [1, 3, 64]


def test_what_cannot_be_exported_is_named(tiny: Backbone, six: OpenWorldSplit) -> None:
    world = OpenWorldClassifier(FewShotClassifier(tiny, "linear-probe"), "lof").fit(six.support)
    with pytest.raises(UsageError, match="got LOFDetector; fit again with one of these"):
        build(world)
