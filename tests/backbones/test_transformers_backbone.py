"""Models of transformers as backbones: features, cuts and texts are that library's own, or the model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import check_name, load_backbone
from clip_fewshot.backbones.proof import draw_trial_pictures
from clip_fewshot.backbones.transformers_backbone import read_preparation
from clip_fewshot.data.image import Geometry
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.testing.backbones import check_backbone

TEXTS = ["a bee", "two bees and a flower"]
PAIRS = ["siglip", "clip", "metaclip 2", "aimv2"]
PICTURES = [
    "aimv2 pictures", "aimv2 native", "siglip pictures", "dinov2", "dinov2 with registers", "dinov3", "dinov3 convnext",
    "vit", "convnext",
]  # fmt: skip
SQUARE = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def save(family: str, folder: Path) -> Any:
    pytest.importorskip("transformers", minversion="5")
    from tests.backbones.families import families

    return families()[family](folder)


def load(folder: Path) -> Backbone:
    return load_backbone(folder, device="cpu")


def own_pixels(folder: Path) -> torch.Tensor:
    from transformers import AutoImageProcessor

    pictures = draw_trial_pictures(32)
    return AutoImageProcessor.from_pretrained(folder, backend="pil")(pictures, return_tensors="pt")["pixel_values"]


@torch.no_grad()
@pytest.mark.parametrize("family", [*PAIRS, *PICTURES])
def test_pictures_have_the_librarys_own_features_at_every_cut(family: str, tmp_path: Path) -> None:
    model = save(family, tmp_path)
    backbone, tower = load(tmp_path), load(tmp_path).visual
    pixels = torch.stack([backbone.preprocess(picture) for picture in draw_trial_pictures(32)])
    if family != "dinov3":  # its own processor wants torchvision
        assert torch.allclose(pixels, own_pixels(tmp_path), atol=1e-5)
    wanted = getattr(model, "get_image_features", model)(pixel_values=pixels).pooler_output.flatten(1)
    assert tower.n_blocks == {"dinov3 convnext": 6, "convnext": 1}.get(family, 3)
    for n in range(tower.n_blocks + 1):
        state = tower.cut(tower.advance(tower.embed(pixels), 0, tower.n_blocks - n), n)
        assert float((tower.suffix(n)(state) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert backbone.reads_texts is (family in PAIRS)
    check_backbone(backbone)


@torch.no_grad()
@pytest.mark.parametrize("family", PAIRS)
def test_texts_have_the_librarys_own_features(family: str, tmp_path: Path) -> None:
    AutoTokenizer = pytest.importorskip("transformers", minversion="5").AutoTokenizer
    model, backbone = save(family, tmp_path), load(tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding="max_length", max_length=80, return_tensors="pt")
    wanted = model.get_text_features(**tokens).pooler_output
    found = backbone.encode_text(backbone.tokenize(TEXTS))
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    logits = model.logit_scale.exp() * found + (model.logit_bias if family == "siglip" else 0)
    bias = backbone.logit_bias
    assert torch.allclose(backbone.logit_scale.exp() * found + (0 if bias is None else bias), logits)


def test_two_loads_have_one_digest_and_other_settings_another(tmp_path: Path) -> None:
    save("siglip", tmp_path)
    before = load(tmp_path).digest
    assert load(tmp_path).digest == before
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 3  # no shape shows it
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).digest != before


@torch.no_grad()
def test_an_object_has_the_preparation_of_where_it_was_loaded_from(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers", minversion="5")
    nowhere = save("siglip", tmp_path)
    model = hf.AutoModel.from_pretrained(tmp_path)
    assert load_backbone(model, device="cpu").digest == load(tmp_path).digest
    model.vision_model.post_layernorm.bias += 1  # trained since
    changed = load_backbone(model, device="cpu")
    assert changed.digest != load(tmp_path).digest
    pixels = torch.randn(2, 3, 32, 32)
    wanted = model.eval().get_image_features(pixel_values=pixels).pooler_output
    assert torch.allclose(changed.encode_image(pixels), wanted, atol=1e-4)
    with pytest.raises(ArtifactError, match="a SiglipModel from nowhere"):
        load_backbone(nowhere)


def test_what_reads_pictures_alone_says_so(tmp_path: Path) -> None:
    save("dinov2", tmp_path)
    backbone = load(tmp_path)
    for ask in (backbone.tokenize, lambda texts: backbone.encode_text(torch.zeros(1, 3, dtype=torch.int64))):
        with pytest.raises(UsageError, match=r"a model with a text tower, got .* which reads pictures alone"):
            ask(TEXTS)


@pytest.mark.parametrize(("change", "match"), [("drop", "missing or left over"), ("add", "missing or left over")])
def test_missing_and_left_over_tensors_are_refused(change: str, match: str, tmp_path: Path) -> None:
    save("dinov2", tmp_path)
    weights = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    if change == "drop":
        del state["layernorm.bias"]
    else:
        state["encoder.layer.3.norm1.weight"] = torch.ones(24)
    safetensors.torch.save_file(state, weights, {"format": "pt"})
    with pytest.raises(ArtifactError, match=match):
        load(tmp_path)


def test_pickles_are_not_read_and_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    model = save("dinov2", tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    evil = {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config | evil))
    load(tmp_path)  # by the code that transformers has for this kind of model
    (tmp_path / "config.json").write_text(json.dumps(config | evil | {"model_type": "evil"}))
    with pytest.raises(ArtifactError):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="in safetensors"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_models_that_give_no_vector_or_read_no_pictures_are_refused(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers", minversion="5")
    from tests.backbones.families import SQUASHED, VISION

    hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION, vision_use_head=False)).save_pretrained(tmp_path)
    hf.SiglipImageProcessorPil(**SQUASHED).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="no vector of a whole picture"):
        load(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    hf.BertModel(hf.BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ArtifactError, match="a model that reads pictures, got a BertModel"):
        load(tmp_path / "bert")


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    save("siglip", tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=name.split(".")[0].split("_")[0]):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SQUARE, Geometry(32, squash=True, floor=True, rgb_first=True)),
        (
            SQUARE | {"size": {"shortest_edge": 37}, "do_center_crop": True, "crop_size": 32, "resample": 2},
            Geometry(32, 37, resample="bilinear", floor=True, rgb_first=True),
        ),
        (
            SQUARE | {"size": 32, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
            Geometry(32, floor=True, rgb_first=True),
        ),
    ],
)
def test_preparations_are_read(settings: dict[str, Any], expected: Geometry) -> None:
    assert read_preparation(settings, "here") == (expected, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert read_preparation(settings | {"do_normalize": False}, "")[1:] == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    "odd",
    [
        {"size": {"height": 32, "width": 48}},
        {"size": {"shortest_edge": 32}},  # a picture of any length
        {"size": {"shortest_edge": 30}, "do_center_crop": True, "crop_size": 32},  # padded
        {"size": {"shortest_edge": 32, "longest_edge": 64}, "do_center_crop": True, "crop_size": 32},
        {"do_center_crop": True, "crop_size": {"height": 32, "width": 30}},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_pad": True},
        {"rescale_factor": 1 / 127.5},
        {"size": {}},
    ],
)
def test_preparations_that_give_no_square_are_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="pictures that become one square"):
        read_preparation(SQUARE | odd, "here")


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "width", "bias"),
    [
        ("hf:google/siglip-base-patch16-224", 768, True),
        ("hf:google/siglip2-base-patch16-224", 768, True),
        ("hf:facebook/metaclip-b32-400m", 512, False),
        ("hf:facebook/dinov2-small", 384, False),
    ],
)
def test_real_weights_pass_the_proof(name: str, width: int, bias: bool) -> None:
    pytest.importorskip("transformers", minversion="5")
    backbone = load_backbone(name, device="cpu")
    assert (backbone.visual.out_features, backbone.logit_bias is not None) == (width, bias)
    check_backbone(backbone)


def test_names_of_the_hub_are_names() -> None:
    assert check_name("hf:google/siglip2-base-patch16-224") == "hf:google/siglip2-base-patch16-224"
    with pytest.raises(UsageError, match="hf:ORGANISATION/NAME"):
        load_backbone("hf:siglip")
