"""Backbones written as a folder come back; damage is seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from clip_fewshot.backbones.architectures import ARCHITECTURES, STATED, CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.folder import BACKBONE_WEIGHTS, CONFIG, load_folder, save_backbone
from clip_fewshot.errors import ArtifactError, UsageError
from tests.backbones.conftest import SMALL, openai_model, pixels


def test_in_full_precision_nothing_changes(small: Backbone, tmp_path: Path) -> None:
    save_backbone(small, tmp_path, half=False)
    loaded = load_folder(tmp_path, "again")
    assert loaded.digest == small.digest
    assert loaded.config == small.config
    assert (loaded.name, loaded.training) == ("again", False)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())


@torch.no_grad()
def test_a_folder_may_be_a_text(small: Backbone, tmp_path: Path) -> None:
    save_backbone(small, str(tmp_path / "own"))
    assert load_folder(tmp_path / "own", "own").name == "own"


def test_in_half_precision_the_weights_are_rounded(small: Backbone, tmp_path: Path) -> None:
    save_backbone(small, tmp_path)
    loaded = load_backbone(tmp_path, device="cpu")
    for key, tensor in small.state_dict().items():
        wanted = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[key], wanted), key
    save_backbone(loaded, tmp_path / "b")
    assert load_folder(tmp_path / "b", "").digest == loaded.digest


@torch.no_grad()
def test_used_token_rows_are_kept_and_the_others_share_their_mean(small: Backbone, tmp_path: Path) -> None:
    tokens = small.tokenize(["a red bee", "two bees"])
    used = set(tokens.flatten().tolist())
    save_backbone(small, tmp_path / "whole", half=False)
    save_backbone(small, tmp_path / "part", used, half=False)
    loaded = load_folder(tmp_path / "part", "part")
    assert torch.equal(loaded.encode_text(tokens), small.encode_text(tokens))
    table = small.state_dict()["token_embedding.weight"]
    rest = [i for i in range(len(table)) if i not in used]
    row = loaded.state_dict()["token_embedding.weight"][rest]
    torch.testing.assert_close(row, table[rest].mean(0).expand_as(row), rtol=0, atol=1e-7)
    sizes = [(tmp_path / name / BACKBONE_WEIGHTS).stat().st_size for name in ("whole", "part")]
    assert sizes[0] - sizes[1] == (len(rest) - 1) * table.shape[1] * 4 - len(table) * 4 - token_rows_header(tmp_path)


def token_rows_header(folder: Path) -> int:
    """How much longer the header of the file with shared rows is."""
    lengths = [
        int.from_bytes((folder / name / BACKBONE_WEIGHTS).read_bytes()[:8], "little") for name in ("whole", "part")
    ]
    return lengths[1] - lengths[0]


def test_all_tokens_used_is_the_whole_table(tmp_path: Path) -> None:
    backbone = build_backbone(SMALL["vit"])
    save_backbone(backbone, tmp_path, range(49_408), half=False)
    assert load_folder(tmp_path, "").digest == backbone.digest


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    backbone = build_backbone(SMALL["vit"])
    with pytest.raises(UsageError, match="token ids"):
        save_backbone(backbone, tmp_path, [49_408])
    with torch.no_grad():
        backbone.logit_scale.fill_(70_000.0)
    with pytest.raises(UsageError, match=r"logit_scale.*half=False"):
        save_backbone(backbone, tmp_path)
    assert not list(tmp_path.iterdir())


def test_damage_is_seen(tmp_path: Path) -> None:
    save_backbone(build_backbone(SMALL["vit"]), tmp_path)
    weights, config = (tmp_path / BACKBONE_WEIGHTS).read_bytes(), (tmp_path / CONFIG).read_text()

    def refused(match: str) -> None:
        with pytest.raises(ArtifactError, match=match):
            load_folder(tmp_path, "")
        (tmp_path / BACKBONE_WEIGHTS).write_bytes(weights)
        (tmp_path / CONFIG).write_text(config)

    (tmp_path / BACKBONE_WEIGHTS).write_bytes(weights[:-9] + bytes([weights[-9] ^ 1]) + weights[-8:])
    refused("the weights that config.json names")
    (tmp_path / BACKBONE_WEIGHTS).write_bytes(weights[:1000])
    refused("readable model.safetensors")
    (tmp_path / BACKBONE_WEIGHTS).unlink()
    refused("readable model.safetensors")
    (tmp_path / CONFIG).unlink()
    refused("a folder with config.json")
    (tmp_path / CONFIG).write_text("[]")
    refused("the architecture of a CLIP model")
    for change in ({"vision_heads": 3}, {"os": "system"}, {"activation": "relu"}, {"vision_layers": 99}):
        (tmp_path / CONFIG).write_text(json.dumps(json.loads(config) | change))
        refused("CLIP model")


@torch.no_grad()
def test_the_features_of_a_loaded_model_are_those_of_its_weights(small: Backbone, tmp_path: Path) -> None:
    save_backbone(small, tmp_path, half=False)
    images = pixels(small.config)
    assert torch.equal(load_folder(tmp_path, "").encode_image(images), small.encode_image(images))


NARROW = CLIPConfig(16, 16, 2, 128, 4, 8, 64, 2, 2, context_length=8, vocab_size=20)  # heads of 32, as mini's
USUAL = replace(NARROW, vision_heads=2, text_heads=1)


@torch.no_grad()
def test_heads_that_no_shape_shows_are_told_in_the_file_and_read_from_it(tmp_path: Path) -> None:
    narrow = build_backbone(NARROW)
    save_backbone(narrow, tmp_path, half=False)
    theirs = openai_model(USUAL)  # the heads that their code derives from the same shapes
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / BACKBONE_WEIGHTS))
    assert (theirs.encode_image(pixels(NARROW)) - narrow.encode_image(pixels(NARROW))).abs().max() > 0.1
    with safetensors.safe_open(tmp_path / BACKBONE_WEIGHTS, "pt") as file:
        told = file.metadata()
    assert "vision_heads 4, text_heads 2" in told["warning"]
    assert "OpenAI's code loads these weights without a word" in told["warning"]
    alone = tmp_path / "alone.safetensors"
    (tmp_path / BACKBONE_WEIGHTS).rename(alone)
    assert load_backbone(alone, device="cpu").digest == narrow.digest


@torch.no_grad()
def test_usual_heads_are_no_news(tmp_path: Path) -> None:
    usual = build_backbone(USUAL)
    save_backbone(usual, tmp_path, half=False)
    theirs = openai_model(USUAL)
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / BACKBONE_WEIGHTS))
    torch.testing.assert_close(theirs.encode_image(pixels(USUAL)), usual.encode_image(pixels(USUAL)))
    assert (tmp_path / BACKBONE_WEIGHTS).read_bytes() == safetensors.torch.save(usual.state_dict(), {STATED: "{}"})
    (tmp_path / BACKBONE_WEIGHTS).rename(tmp_path / "alone.safetensors")
    assert load_backbone(tmp_path / "alone.safetensors", device="cpu").digest == usual.digest
    assert not any(config.warning() for config in ARCHITECTURES.values())
    assert replace(USUAL, activation="gelu").unlike_openai() == {"activation": "gelu"}


@pytest.mark.parametrize(
    "stated", ["[]", "{", "[" * 99999, '{"vision_heads": "4"}', '{"image_size": 3}', '{"text_heads": 0}']
)
def test_a_header_that_states_nonsense_is_named(stated: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(build_backbone(NARROW).state_dict(), tmp_path / "w.safetensors", {STATED: stated})
    with pytest.raises(ArtifactError, match=r"w\.safetensors"):
        load_backbone(tmp_path / "w.safetensors", device="cpu")


def test_heads_in_the_config_are_those_that_the_weights_state(small: Backbone, tmp_path: Path) -> None:
    save_backbone(small, tmp_path, half=False)
    config = json.loads((tmp_path / "config.json").read_text())
    assert load_folder(tmp_path, "as it is").digest == small.digest
    for name, other in (("vision_heads", 2 * small.config.vision_heads), ("activation", "gelu")):
        (tmp_path / "config.json").write_text(json.dumps(config | {name: other}))
        with pytest.raises(ArtifactError, match="as the weights state them"):
            load_folder(tmp_path, "changed")
