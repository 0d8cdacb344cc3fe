"""The recipe of the shipped model, at a size that takes seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.runtime.rng import generator
from experiments.glyphs import captions, pool, scenes
from experiments.glyphs.fields import BODY, FIELD, field_of_lines, field_of_mask
from experiments.glyphs.presets import PRESETS
from experiments.glyphs.recipe import pretrain, train
from experiments.glyphs.validation import validate
from experiments.glyphs.vocabulary import UNKNOWN, Vocabulary

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def glyphs() -> pool.Pool:
    return pool.training_pool(0, hands=10, marks=3, faces=1)


def draw(glyphs: pool.Pool, seed: int, scans: float = 0.5, n: int = 24) -> scenes.Scenes:
    rng = generator(seed, "test")
    return scenes.draw_scenes(glyphs, glyphs.draw(n, rng), scenes.SceneStyle(32, scans=scans), rng)


def test_the_pool_and_the_pictures_depend_on_the_seed_alone(glyphs: pool.Pool) -> None:
    again = pool.training_pool(0, hands=10, marks=3, faces=1)
    assert np.array_equal(glyphs.fields, again.fields)
    assert torch.equal(draw(glyphs, 1).images, draw(again, 1).images)
    assert not torch.equal(draw(glyphs, 1).images, draw(glyphs, 2).images)


def test_a_field_of_lines_holds_the_distance_to_the_line() -> None:
    line = np.stack([np.linspace(-BODY, BODY, 400), np.zeros(400)], axis=1)
    field = field_of_lines(line, 0.1).astype(float) / 127.5 - 1
    rows = (np.arange(FIELD) + 0.5) / FIELD * 2 - 1
    expected = np.clip((0.1 - np.abs(rows)) / 0.4, -1, 1)
    assert np.allclose(field[:, FIELD // 2], expected, atol=0.01)


def test_a_field_of_a_mask_is_positive_inside() -> None:
    mask = np.zeros((80, 80), dtype=bool)
    mask[20:60, 30:50] = True
    inside = field_of_mask(mask) > 127.5
    assert abs(inside.mean() - mask.mean()) < 0.02


def test_scans_have_seventeen_levels_and_a_black_margin(glyphs: pool.Pool) -> None:
    style = scenes.SceneStyle(10, scans=1.0)
    rng = generator(3, "levels")
    images = scenes.draw_scenes(glyphs, glyphs.draw(20, rng), style, rng).images[2:18]  # the ends have other margins
    assert torch.allclose(images * 16, (images * 16).round(), atol=1e-4)
    assert images[:, :, 0].abs().max() == 0
    assert images[:, :, :, -1].abs().max() == 0


def test_pictures_stay_in_range(glyphs: pool.Pool) -> None:
    images = draw(glyphs, 4, scans=0.0, n=64).images
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_every_picture_has_a_true_caption_and_truth_is_what_was_stated(glyphs: pool.Pool) -> None:
    drawn = draw(glyphs, 5, n=40)
    texts, stated = captions.Captioner(glyphs.classes).write(drawn.attributes, 12, generator(5, "captions"))
    truth = captions.true_of(drawn.attributes, stated)
    assert truth.shape == (40, len(texts))
    assert truth.any(axis=0).all()
    assert truth.any(axis=1).all()
    for i, j in np.argwhere(truth)[::7]:
        claims = stated[j] != captions.UNSTATED
        assert (stated[j][claims] == drawn.attributes[i][claims]).all()
    for text, claim in zip(texts, stated, strict=True):
        if claim[captions.INK] != captions.UNSTATED:
            assert list(scenes.COLOURS)[claim[captions.INK]] in text


def test_no_glyph_of_validation_is_trained(glyphs: pool.Pool) -> None:
    trained = {item.names for item in glyphs.classes}
    assert not trained & {item.names for item in pool.unseen_letters(0, 2).classes}


def test_articles_agree() -> None:
    assert [captions.article(w) for w in ("eight", "seven", "one", "8", "armenian", "union")] == [
        *("an", "a", "a", "an", "an", "a")
    ]


def test_widening_the_vocabulary_changes_no_feature_and_unknown_words_share_a_row(glyphs: pool.Pool) -> None:
    vocabulary = Vocabulary(glyphs.classes)
    small = build_backbone(CLIPConfig(16, 16, 1, 32, 1, 8, 32, 1, 1, vocab_size=vocabulary.size), 0)
    wide = vocabulary.widen(small)
    texts = ["a photo of a seven.", "an image of the xylophone", "zero"]
    with torch.no_grad():
        assert torch.allclose(small.encode_text(vocabulary.encode(texts)), wide.encode_text(wide.tokenize(texts)))
    assert (vocabulary.encode(["xylophone"])[0, 1] == UNKNOWN).item()


def test_forgetting_leaves_the_marks(glyphs: pool.Pool) -> None:
    vocabulary = Vocabulary(glyphs.classes)
    rows = vocabulary.encode(["a photo of a seven.", "zero"])
    forgotten = vocabulary.forget(rows, 1.0, generator(0, "forget"))
    assert torch.equal(forgotten.argmax(dim=1), rows.argmax(dim=1))
    assert torch.equal(forgotten[:, 0], rows[:, 0])
    assert int((forgotten > 0).sum()) == 4


def test_the_recipe_learns_and_repeats_itself(glyphs: pool.Pool) -> None:
    few = np.flatnonzero((glyphs.class_of < 4) & (glyphs.source_of == 0))
    digits = replace(
        glyphs,
        fields=glyphs.fields[few],
        class_of=glyphs.class_of[few],
        source_of=glyphs.source_of[few],
        weight_of=glyphs.weight_of[few],
    )
    vocabulary = Vocabulary(glyphs.classes)
    losses: list[list[float]] = []
    weights = []
    for _ in range(2):
        seen: list[float] = []
        backbone = train(
            TINY, digits, vocabulary, 0, on_step=lambda report, seen=seen: seen.append(report.loss - report.floor)
        )
        losses.append(seen)
        weights.append(backbone.state_dict())
    assert np.mean(losses[0][-10:]) < 0.75 * np.mean(losses[0][:10])
    assert losses[0] == losses[1]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_what_is_written_loads_back(tmp_path: Path) -> None:
    wide = pretrain(replace(TINY, steps=2), 0, tmp_path / "mini")
    loaded = cf.load_backbone(tmp_path / "mini", device="cpu")
    tokens = wide.tokenize(["a photo of a seven."])
    with torch.no_grad():
        assert torch.allclose(loaded.encode_text(tokens), wide.encode_text(tokens), atol=2e-2)
    assert sum(file.stat().st_size for file in (tmp_path / "mini").iterdir()) < 1_000_000


def test_the_shipped_model_is_small_and_reads_hands_it_never_saw() -> None:
    folder = Path(cf.__file__).parent / "backbones" / "mini"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    figures = validate(cf.load_backbone("mini", device="cpu"), hands=24)
    assert figures["zero_shot_scan"] > 0.85
    assert figures["zero_shot_wild"] > 0.6
    assert figures["letters_scan_4"] > 0.85
