"""``load_backbone`` by every kind of name, and what it says to a wrong one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import clip_fewshot as cf
from clip_fewshot.backbones import clip, download
from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.data.image import preprocess
from clip_fewshot.errors import ArtifactError, DataError, ResourceError, UsageError
from tests.backbones.conftest import SMALL, openai_model, pixels, shaken
from tests.backbones.test_archive import scripted


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Path:
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(clip, "fetch", refuse)


def test_openais_module_is_copied(small: Backbone) -> None:
    theirs = openai_model(small.config)
    ours = load_backbone(theirs, device="cpu")
    images = pixels(small.config)
    with torch.no_grad():
        wanted = theirs.encode_image(images)
        torch.testing.assert_close(ours.encode_image(images), wanted, rtol=0, atol=1e-5)
        for parameter in theirs.parameters():
            parameter.zero_()
        torch.testing.assert_close(ours.encode_image(images), wanted, rtol=0, atol=1e-5)


class Archived(nn.Module):
    """The parts of OpenAI's archives that a state dict has, constants included; its forward means nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = nn.Module()
        for name, constant in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49_408)):
            self.register_buffer(name, torch.tensor(constant))
        for name, tensor in model.state_dict().items():
            _put(self, name.split("."), tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _put(module: nn.Module, path: list[str], tensor: torch.Tensor) -> None:
    for part in path[:-1]:
        if part not in dict(module.named_children()):
            module.add_module(part, Empty())
        module = module.get_submodule(part)
    module.register_buffer(path[-1], tensor.half() if tensor.is_floating_point() else tensor)


class Empty(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@torch.no_grad()
def test_an_archive_of_half_precision_gives_float32_parameters(small: Backbone, tmp_path: Path) -> None:
    scripted(Archived(small), tmp_path / "RN.pt")
    loaded = load_backbone(tmp_path / "RN.pt", device="cpu")
    assert loaded.config == small.config
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for key, tensor in loaded.state_dict().items():
        given = small.state_dict()[key]
        assert torch.equal(tensor, given.half().float() if given.is_floating_point() else given), key


def test_files_that_torch_and_safetensors_saved(small: Backbone, tmp_path: Path) -> None:
    state = small.state_dict()
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"epoch": 1, "model_state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "epoch.pth")
    safetensors.torch.save_file(state, tmp_path / "some.safetensors")
    for name in ("plain.pt", "epoch.pth", "some.safetensors"):
        loaded = load_backbone(str(tmp_path / name), device="cpu", **openai_heads(small.config))
        assert loaded.digest == small.digest
        assert loaded.name == str(tmp_path / name)


def test_a_saved_classifier_finds_weights_that_tell_nothing_by_its_digest(
    tmp_path: Path, split: cf.OpenWorldSplit
) -> None:
    weights, told = tmp_path / "w.pt", openai_heads(SMALL["vit"])
    torch.save(build_backbone(SMALL["vit"]).state_dict(), weights)
    for activation in ("quick_gelu", "gelu"):
        backbone = load_backbone(weights, device="cpu", **told | {"activation": activation})
        cf.FewShotClassifier(backbone, "linear-probe").fit(split.support).save(tmp_path / activation)
    assert cf.FewShotClassifier.load(tmp_path / "quick_gelu").backbone.config == SMALL["vit"]
    with pytest.raises(ArtifactError, match="pass the backbone it was trained on"):
        cf.FewShotClassifier.load(tmp_path / "gelu")
    assert cf.FewShotClassifier.load(tmp_path / "gelu", backbone).backbone is backbone
    (tmp_path / "w.json").write_text('{"activation": "gelu", "vision_heads": 2, "text_heads": 1}')
    assert cf.FewShotClassifier.load(tmp_path / "gelu").backbone.config.activation == "gelu"


def test_official_names_go_through_the_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backbone = shaken(build_backbone(SMALL["vit"]))
    torch.save(backbone.state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(clip, "fetch", lambda weights: tmp_path / "weights.pt")
    monkeypatch.setitem(clip.ARCHITECTURES, "ViT-L/14@336px", SMALL["vit"])
    loaded = load_backbone("ViT-L/14-336px", device="cpu")
    assert loaded.name == "ViT-L/14@336px"
    assert loaded.digest == backbone.digest


def test_the_files_of_another_architecture_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(build_backbone(SMALL["vit"]).state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(clip, "fetch", lambda weights: tmp_path / "weights.pt")
    monkeypatch.setitem(clip.ARCHITECTURES, "RN50", SMALL["resnet"])
    with pytest.raises(ArtifactError, match=r"the tensors of a CLIP model.*missing"):
        load_backbone("RN50", device="cpu")


def test_random_weights_by_name_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clip.ARCHITECTURES, "RN50", SMALL["resnet"])
    one, two = (load_backbone("RN50", pretrained=False, device="cpu") for _ in range(2))
    assert one.name == "RN50 (random weights)"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_random_weights_come_back_by_the_name_they_are_saved_under() -> None:
    one = load_backbone("mini", pretrained=False, device="cpu")
    again = load_backbone(one.name, device="cpu")
    assert (again.name, again.digest) == (one.name, one.digest)
    with pytest.raises(UsageError, match="'nothing'"):
        load_backbone("nothing (random weights)", device="cpu")


def openai_heads(config: CLIPConfig) -> dict[str, Any]:
    return {"activation": "quick_gelu", "heads": (config.vision_heads, config.text_heads)}


def spoiled(key: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = build_backbone(SMALL["vit"]).state_dict()
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    return state


def test_foreign_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    cases = (
        (spoiled("visual.ln_pre.bias", None), r"1 missing \['visual.ln_pre.bias'\]"),
        (spoiled("visual.extra", torch.ones(1)), r"1 unknown \['visual.extra'\]"),
        (spoiled("visual.ln_pre.bias", torch.ones(5)), r"visual.ln_pre.bias of shape \(128,\), got \(5,\)"),
        (spoiled("visual.ln_pre.bias", torch.full((128,), torch.nan)), "NaN or infinity"),
        (spoiled("ln_final.weight", None), "the weights of a CLIP model, got none"),
        ({"a": torch.ones(1)}, "the weights of a CLIP model, got none"),
    )
    for state, match in cases:
        torch.save(state, path)
        with pytest.raises(ArtifactError, match=match):
            load_backbone(path, device="cpu", **openai_heads(SMALL["vit"]))
    for content in (b"", b"not weights at all", b"\x80\x02."):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="a file with weights"):
            load_backbone(path, device="cpu")


def test_wrong_names_say_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"RN50.*ViT-L/14@336px, mini, photos, a path.*'ViT-B/31'"):
        load_backbone("ViT-B/31", device="cpu")
    with pytest.raises(UsageError, match="one of RN50"):
        load_backbone("nothing", pretrained=False, device="cpu")
    with pytest.raises(DataError, match="check the path"):
        load_backbone(str(tmp_path / "missing.pt"), device="cpu")
    with pytest.raises(ArtifactError, match=r"a folder with config\.json"):
        load_backbone(tmp_path, device="cpu")


def test_devices() -> None:
    backbone = build_backbone(SMALL["vit"])
    assert load_backbone(backbone, device="cpu") is backbone
    with pytest.raises(UsageError, match="a device out of auto, cpu, cuda, mps"):
        load_backbone(backbone, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="a cuda device"):
            load_backbone(backbone, device="cuda")


@torch.no_grad()
def test_the_precision_of_activations_is_a_choice_and_parameters_keep_theirs() -> None:
    backbone = build_backbone(SMALL["vit"])
    images = pixels(SMALL["vit"])
    exact = backbone.encode_image(images)
    half = load_backbone(backbone, device="cpu", dtype=torch.bfloat16).encode_image(images)
    assert half.dtype == torch.float32
    assert 0 < float((half - exact).abs().max()) < 0.05 * float(exact.abs().max())
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_pictures_and_texts_are_prepared_for_the_model() -> None:
    backbone = build_backbone(SMALL["vit"])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8))
    assert torch.equal(backbone.preprocess(picture), torch.from_numpy(preprocess(picture, 64)))
    assert backbone.tokenize(["a", "b"]).shape == (2, 77)


def test_a_deep_copy_is_its_own_model_with_openais_keys() -> None:
    backbone = build_backbone(SMALL["vit"])
    twin = copy.deepcopy(backbone)
    twin.load_state_dict(build_backbone(SMALL["vit"], seed=1).state_dict())
    assert twin.state_dict().keys() == backbone.state_dict().keys()
    assert "transformer.resblocks.0.attn.in_proj_weight" in twin.state_dict()
    assert twin.digest != backbone.digest == build_backbone(SMALL["vit"]).digest


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    backbone = build_backbone(SMALL["vit"])
    first = backbone.digest
    with torch.no_grad():
        backbone.logit_scale.add_(1e-6)
    assert backbone.digest != first
    backbone.load_state_dict(build_backbone(SMALL["vit"]).state_dict())
    assert backbone.digest == first
    save_backbone(backbone, tmp_path, half=False)
    assert load_backbone(tmp_path, device="cpu").digest == first


def test_every_official_name_has_an_address() -> None:
    assert download.OFFICIAL.keys() == clip.ARCHITECTURES.keys()
    assert all(len(weights.sha256) == 64 and weights.sha256 in weights.url for weights in download.OFFICIAL.values())


def test_loading_draws_no_random_number(small: Backbone, tmp_path: Path) -> None:
    save_backbone(small, tmp_path)
    before = torch.random.get_rng_state()
    load_backbone(tmp_path, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_activations_are_half_and_parameters_are_not(small: Backbone) -> None:
    images, tokens = pixels(small.config), small.tokenize(["a bee", "two bees"])
    wanted = small.encode_image(images), small.encode_text(tokens)
    there = load_backbone(small, device="cuda")
    for exact, half in zip(wanted, (there.encode_image(images), there.encode_text(tokens)), strict=True):
        assert half.is_cuda
        assert half.dtype == torch.float32
        assert 0 < float((half.cpu() - exact).abs().max()) < 0.05 * float(exact.abs().max())
    assert {p.dtype for p in there.parameters()} == {torch.float32}
    single = load_backbone(there, device="cuda", dtype=torch.float32).encode_text(tokens).cpu()
    torch.testing.assert_close(single, wanted[1], rtol=0, atol=1e-3)
