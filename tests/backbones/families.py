"""Small models of transformers with random weights, none of their settings the usual one, saved as users have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

EPSILON = 0.03  # large enough to show in the features
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": EPSILON,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 80,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": EPSILON,
}
SQUASHED = {"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.4, 0.5]}
CROPPED = {
    "size": {"shortest_edge": 37},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.3, 0.4, 0.5],
}


def shake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that are nowhere zero or one, so that no norm, bias or scale goes unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 + (parameter if parameter.ndim < 2 else 0))
        for name in ("logit_scale", "logit_bias"):
            if hasattr(model, name):
                getattr(model, name).fill_({"logit_scale": 2.0, "logit_bias": -3.0}[name])
    return model.eval()


def save_tokenizer(folder: Path, pad: str = "<pad>", mask: bool = True) -> None:
    """A tokenizer of letters with marks."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", "<s>", "</s>", *letters])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    marks = [(name, vocabulary[name]) for name in ("<s>", "</s>")]
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    names = ["input_ids", "attention_mask"][: 2 if mask else 1]
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token=pad, bos_token="<s>", eos_token="</s>",
        model_input_names=names,
    ).save_pretrained(folder)  # fmt: skip


def _pair(config: Any, model: type, processor: Any, **tokens: Any) -> Callable[[Path], Any]:
    def save(folder: Path) -> Any:
        built = shake(model(config))
        built.save_pretrained(folder)  # type: ignore[operator]
        processor.save_pretrained(folder)
        if hasattr(built, "get_text_features"):
            save_tokenizer(folder, **tokens)
        return built

    return save


def families() -> dict[str, Callable[[Path], Any]]:
    """Name -> what saves a model of that family in a folder, and gives it."""
    import transformers as hf

    siglip = hf.SiglipImageProcessorPil(**SQUASHED, resample=2)
    clip, bit = hf.CLIPImageProcessorPil(**CROPPED, resample=2), hf.BitImageProcessorPil(**CROPPED, resample=3)
    eps = {key: value for key, value in VISION.items() if key != "layer_norm_eps"} | {"rms_norm_eps": EPSILON}
    words = {key: value for key, value in TEXT.items() if key != "layer_norm_eps"} | {"rms_norm_eps": EPSILON}
    ends = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 1}
    of_siglip = {"vision_config": VISION, "text_config": TEXT | ends | {"hidden_size": 24, "projection_size": 24}}
    of_clip = {"vision_config": VISION, "text_config": TEXT | ends, "projection_dim": 20}
    aim = {"vision_config": eps | {"use_head": True}, "text_config": words | ends, "projection_dim": 20}
    dino = VISION | {"mlp_ratio": 2, "num_register_tokens": 2, "layerscale_value": 0.7}
    return {
        "siglip": _pair(hf.SiglipConfig(**of_siglip), hf.SiglipModel, siglip, mask=False),
        "clip": _pair(hf.CLIPConfig(**of_clip), hf.CLIPModel, clip),
        "metaclip 2": _pair(hf.MetaClip2Config(**of_clip), hf.MetaClip2Model, clip),
        "aimv2": _pair(hf.Aimv2Config(**aim), hf.Aimv2Model, clip),
        "aimv2 pictures": _pair(hf.Aimv2VisionConfig(**eps, use_head=True), hf.Aimv2VisionModel, clip),
        "aimv2 native": _pair(hf.Aimv2VisionConfig(**eps, use_head=True, is_native=True), hf.Aimv2VisionModel, clip),
        "siglip pictures": _pair(hf.SiglipVisionConfig(**VISION), hf.SiglipVisionModel, siglip),
        "dinov2": _pair(hf.Dinov2Config(**dino), hf.Dinov2Model, bit),
        "dinov2 with registers": _pair(hf.Dinov2WithRegistersConfig(**dino), hf.Dinov2WithRegistersModel, bit),
        "dinov3": _pair(hf.DINOv3ViTConfig(**dino, use_gated_mlp=True), hf.DINOv3ViTModel, siglip),
        "dinov3 convnext": _pair(
            hf.DINOv3ConvNextConfig(
                hidden_sizes=[8, 12, 16, 24], depths=[1, 2, 1, 2], image_size=32, layer_norm_eps=EPSILON
            ),
            hf.DINOv3ConvNextModel,
            siglip,
        ),
        "vit": _pair(hf.ViTConfig(**VISION), hf.ViTModel, siglip),
        "convnext": _pair(
            hf.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2, layer_norm_eps=EPSILON),
            hf.ConvNextModel,
            siglip,
        ),
    }
