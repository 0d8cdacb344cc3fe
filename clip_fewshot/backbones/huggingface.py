"""Weights in the layout of Hugging Face's ``CLIPModel``, renamed to OpenAI's keys; the package itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clip_fewshot.errors import ArtifactError

SIGN = "text_model.final_layer_norm.weight"

# Prefix there -> prefix here; tried in order. The query, key and value parts are stacked afterwards.
PREFIXES = {
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm.": "ln_final.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "logit_scale": "logit_scale",
}
RENAMED_PARTS = {
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
QUERY = ".self_attn.q_proj."


def rename_to_openai(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The same tensors under OpenAI's keys; a state with other keys comes back as it is.

    Raises:
        ArtifactError: a key that no CLIP model of that package has, or one that is missing.
    """
    if SIGN not in state:
        return dict(state)
    found = {}
    for key, tensor in state.items():
        if key in PROJECTIONS:
            found[PROJECTIONS[key]] = tensor.T
        elif QUERY in key:
            found[_rename(key.replace(QUERY, ".attn.in_proj_"), where)] = _stack(state, key, where)
        elif not key.endswith("position_ids") and ".self_attn.k_proj." not in key and ".self_attn.v_proj." not in key:
            found[_rename(key, where)] = tensor
    return found


def _rename(key: str, where: str) -> str:
    for there, here in PREFIXES.items():
        if key.startswith(there):
            key = here + key.removeprefix(there)
            for part, ours in RENAMED_PARTS.items():
                key = key.replace(part, ours)
            return key
    got = f"one named {key}"
    raise ArtifactError(expected="the tensors of a CLIPModel", got=got, fix="check which model this is", where=where)


def _stack(state: Mapping[str, Tensor], query: str, where: str) -> Tensor:
    keys = [query.replace(QUERY, f".self_attn.{letter}_proj.") for letter in "qkv"]
    missing = [key for key in keys if key not in state]
    if missing:
        got = f"{missing} missing"
        raise ArtifactError(expected="the tensors of a CLIPModel", got=got, fix="get an undamaged copy", where=where)
    return torch.cat([state[key] for key in keys])
