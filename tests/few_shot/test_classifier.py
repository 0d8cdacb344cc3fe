"""FewShotClassifier as its users meet it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import ArtifactError, DataError, UsageError
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.classifier import FewShotClassifier
from tests.conftest import TINY


def quick(backbone: Backbone, approach: str = "mlp", **options: object) -> FewShotClassifier:
    settings = {"unfreeze": 1, "backbone_lr": 1e-3, "epochs": 2} | options
    return FewShotClassifier(backbone, approach, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("approach", OWN)
def test_saved_and_loaded_predicts_the_same_bytes(
    approach: str, tiny: Backbone, split: OpenWorldSplit, tmp_path: Path
) -> None:
    model = quick(tiny, approach).fit(split.support)
    before = model.predict_proba(split.pool)
    model.save(tmp_path / "model")
    loaded = FewShotClassifier.load(tmp_path / "model", tiny)
    assert np.array_equal(loaded.predict_proba(split.pool), before)
    assert loaded.label_space_ == model.label_space_
    assert before.shape == (len(split.pool), 7)
    np.testing.assert_allclose(before.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("approach", OWN)
def test_fitting_twice_gives_the_same_bytes(approach: str, tiny: Backbone, split: OpenWorldSplit) -> None:
    one, two = (quick(tiny, approach).fit(split.support).predict_proba(split.support) for _ in range(2))
    assert np.array_equal(one, two)


def test_it_learns_what_raw_noise_cannot_explain(tiny: Backbone, split: OpenWorldSplit) -> None:
    model = quick(tiny, "contrastive", epochs=20).fit(split.support)
    assert model.score(split.pool) > 3 / 7


def test_a_look_at_the_sealed_set_is_counted(tiny: Backbone, digits: object) -> None:
    split = split_open_world(digits, shots=2, unseen=6, seed=1)  # type: ignore[arg-type]
    model = quick(tiny, "linear-probe").fit(split.support)
    assert split.test.looks == 0
    model.score(split.test)
    assert split.test.purposes == ("score",)


def test_pictures_and_paths_are_accepted(tiny: Backbone, split: OpenWorldSplit, tmp_path: Path) -> None:
    pictures = [split.support.open(i) for i in range(len(split.support))]
    labels = split.support.label_space.decode(split.support.required_labels())
    model = quick(tiny, "linear-probe").fit(pictures, labels)
    pictures[0].save(tmp_path / "a.png")
    from_path, from_memory = model.predict([tmp_path / "a.png"]), model.predict([pictures[0]])
    assert from_path.tolist() == from_memory.tolist()


def test_parameters_are_stored_unchanged(tiny: Backbone) -> None:
    model = FewShotClassifier(tiny, "mlp-arcface", unfreeze=2, backbone_lr=3e-5, head_lr=2e-3, margin=0.3, seed=9)
    assert (model.approach, model.unfreeze, model.backbone_lr, model.head_lr) == ("mlp-arcface", 2, 3e-5, 2e-3)
    assert (model.margin, model.seed) == (0.3, 9)
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, s: m.predict(["x.png"]), UsageError, "call fit first"),
        (lambda m, s: m.save("x"), UsageError, "call fit first"),
        (lambda m, s: m.fit([Image.new("RGB", (8, 8))]), DataError, "labelled"),
        (lambda m, s: m.fit([Image.new("RGB", (8, 8))], ["bee"]), DataError, "two classes"),
        (lambda m, s: m.fit("photo.jpg"), UsageError, "list of pictures"),
        (lambda m, s: m.fit(s.support, ["a"]), UsageError, "inside the dataset"),
    ],
)
def test_mistakes_are_explained(
    call: object, error: type[Exception], words: str, tiny: Backbone, split: OpenWorldSplit
) -> None:
    with pytest.raises(error, match=words):
        call(quick(tiny), split)  # type: ignore[operator]


def test_layers_that_are_not_there_and_approaches_that_do_not_exist(tiny: Backbone, split: OpenWorldSplit) -> None:
    with pytest.raises(UsageError, match="layers"):
        quick(tiny, unfreeze=9).fit(split.support)
    with pytest.raises(UsageError, match="mlp-arcface"):
        quick(tiny, "resnet").fit(split.support)


@pytest.mark.parametrize("approach", ["contrastive", "contrastive-arcface"])
def test_an_approach_without_a_head_needs_a_layer_that_trains(
    approach: str, tiny: Backbone, split: OpenWorldSplit
) -> None:
    words = "`unfreeze`: expected layers .*, got 0: .*nothing would train.*; unfreeze 1 or more, or .*linear-probe"
    with pytest.raises(UsageError, match=words):
        quick(tiny, approach, unfreeze=0).fit(split.support)
    assert quick(tiny, approach, unfreeze=1).fit(split.support).model_.point.unfreeze == 1
    assert quick(tiny, "mlp", unfreeze=0).fit(split.support).model_.head is not None


def test_an_unknown_class_in_a_test_set_is_refused(tiny: Backbone, split: OpenWorldSplit) -> None:
    model = quick(tiny, "linear-probe").fit(split.support)
    with pytest.raises(UsageError, match="class names"):
        model.score([split.support.open(0)], ["giraffe"])


def test_another_backbone_is_refused(tiny: Backbone, split: OpenWorldSplit, tmp_path: Path) -> None:
    quick(tiny, "mlp").fit(split.support).save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="backbone tiny"):
        FewShotClassifier.load(tmp_path / "m", build_backbone(TINY, seed=1))


def test_every_damaged_byte_is_noticed(tiny: Backbone, split: OpenWorldSplit, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    quick(tiny, "linear-probe").fit(split.support).save(folder)
    (weights,) = folder.glob("weights-*")
    whole = weights.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 25):
        broken = bytearray(whole)
        broken[place] ^= 1
        weights.write_bytes(bytes(broken))
        with pytest.raises(ArtifactError, match="damaged"):
            FewShotClassifier.load(folder, tiny)
    weights.write_bytes(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["meta"]["classes"] = manifest["meta"]["classes"][::-1]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="changed"):
        FewShotClassifier.load(folder, tiny)


def test_a_newer_model_replaces_the_older_one_whole(tiny: Backbone, split: OpenWorldSplit, tmp_path: Path) -> None:
    for approach in ("mlp", "linear-probe"):
        model = quick(tiny, approach).fit(split.support)
        model.save(tmp_path / "m")
    loaded = FewShotClassifier.load(tmp_path / "m", tiny)
    assert loaded.approach == "linear-probe"
    assert len(list((tmp_path / "m").iterdir())) == 2


def test_own_templates_are_the_captions_that_it_learns_from_and_are_kept(
    tiny: Backbone, split: OpenWorldSplit, tmp_path: Path
) -> None:
    texts = ("a photo of the number {}", "one {}, no more")
    usual, own, alone = (
        quick(tiny, "contrastive", templates=chosen).fit(split.support) for chosen in ((), texts, texts[:1])
    )
    said = [model.predict_proba(split.support) for model in (usual, own, alone)]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(said, 2))
    own.save(tmp_path / "own")
    loaded = FewShotClassifier.load(tmp_path / "own", tiny)
    assert loaded.recipe().settings.templates == texts
    assert np.array_equal(loaded.fit(split.support).predict_proba(split.support), said[1])  # refitted from its file
    usual.save(tmp_path / "usual")
    assert "templates" not in json.loads((tmp_path / "usual" / "manifest.json").read_text())["meta"]["training"]
    with pytest.raises(UsageError, match=r"one \{\} in each template"):
        quick(tiny, "contrastive", templates=("a photo",)).fit(split.support)


def test_a_head_starts_from_the_texts(tiny: Backbone, split: OpenWorldSplit) -> None:
    usual, own = (quick(tiny, "mlp", templates=chosen).fit(split.support) for chosen in ((), ("one {}",)))
    assert not np.array_equal(usual.predict_proba(split.support), own.predict_proba(split.support))


def test_captions_are_encoded_where_they_are_read(tiny: Backbone, split: OpenWorldSplit) -> None:
    with pytest.raises(UsageError, match="captions"):
        _ = quick(tiny, "mlp").prepare(split.support, [1])[0].captions.prefix
    assert quick(tiny, "contrastive").prepare(split.support, [1])[0].captions.prefix
