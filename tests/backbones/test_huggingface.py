"""Hugging Face's layout of the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.huggingface import rename_to_openai
from clip_fewshot.errors import ArtifactError
from tests.backbones.conftest import SMALL, pixels, shaken

BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def huggingface_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Written out tower by tower, block by block: the slow way round."""
    found = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    for kind in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        found[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        found[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        for model, prefix, layers in (("vision", "visual.", 3), ("text", "", 2)):
            for i in range(layers):
                there, here = f"{model}_model.encoder.layers.{i}.", f"{prefix}transformer.resblocks.{i}."
                for ours, theirs in BLOCK.items():
                    found[f"{there}{theirs}.{kind}"] = state[f"{here}{ours}.{kind}"]
                parts = state[f"{here}attn.in_proj_{kind}"].chunk(3)
                for letter, part in zip("qkv", parts, strict=True):
                    found[f"{there}self_attn.{letter}_proj.{kind}"] = part.clone()
    return found


def test_every_tensor_finds_its_place(tmp_path: Path) -> None:
    backbone = shaken(build_backbone(SMALL["vit"]))
    safetensors.torch.save_file(huggingface_state(backbone.state_dict()), tmp_path / "model.safetensors")
    assert (
        load_backbone(tmp_path / "model.safetensors", device="cpu", activation="quick_gelu", heads=(2, 1)).digest
        == backbone.digest
    )


def test_openais_keys_pass_through() -> None:
    state = build_backbone(SMALL["resnet"]).state_dict()
    assert rename_to_openai(state, "") == state


def test_foreign_and_missing_tensors_are_named() -> None:
    state = huggingface_state(build_backbone(SMALL["vit"]).state_dict())
    with pytest.raises(ArtifactError, match=r"one named decoder\.weight"):
        rename_to_openai(state | {"decoder.weight": torch.ones(1)}, "")
    del state["text_model.encoder.layers.0.self_attn.v_proj.bias"]
    with pytest.raises(ArtifactError, match=r"v_proj\.bias"):
        rename_to_openai(state, "")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("heads", [(2, 1), (8, 1), (4, 2)])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_new"])
def test_the_real_package_gives_the_same_features(activation: str, heads: tuple[int, int], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"intermediate_size": 4 * 128, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": heads[0]}
    text = {"intermediate_size": 256, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": heads[1]}
    config = transformers.CLIPConfig(
        projection_dim=48,
        vision_config=sizes | {"image_size": 64, "patch_size": 16, "hidden_act": activation},
        text_config=text | {"vocab_size": 49_408, "eos_token_id": 49_407, "hidden_act": activation},
    )
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="1MB")
    state = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"epoch": 1, "model": state}, tmp_path / "whole" / "epoch.pt")
    output = None
    for source in (
        theirs,
        *(tmp_path / name for name in ("whole", "parts", "whole/model.safetensors", "whole/epoch.pt")),
    ):
        if activation == "gelu_new":
            with pytest.raises(ArtifactError, match="hidden_act"):
                load_backbone(source, device="cpu")
            continue
        ours = load_backbone(source, device="cpu")
        images, tokens = pixels(SMALL["vit"]), ours.tokenize(["a bee", "two bees and a flower"])
        output = output or theirs(input_ids=tokens, pixel_values=images)
        for mine, other in (
            (ours.encode_image(images), output.image_embeds),
            (ours.encode_text(tokens), output.text_embeds),
        ):
            torch.testing.assert_close(mine / mine.norm(dim=1, keepdim=True), other, rtol=0, atol=1e-5)
    theirs.config.vision_config.hidden_act = "quick_gelu" if activation != "quick_gelu" else "gelu"
    theirs.config.text_config.hidden_act = theirs.config.vision_config.hidden_act
    with pytest.raises(ArtifactError, match="features that differ"):
        load_backbone(theirs, device="cpu")  # a config that is not what the modules are
