"""What is stated about weights beside their tensors: heads, activation and sizes, in the forms of three libraries.

Our own header and ``config.json``, Hugging Face's ``config.json``, and open_clip's ``open_clip_config.json``. A setting
that changes features and that we do not build is an error: passed over, it gives other features without a word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from clip_fewshot.backbones.architectures import STATED, CLIPConfig
from clip_fewshot.backbones.backbone import NOT_WEIGHTS
from clip_fewshot.backbones.huggingface import SIGN
from clip_fewshot.backbones.transformers_package import PROCESSORS
from clip_fewshot.data.image import CLIP_MEAN, CLIP_STD
from clip_fewshot.errors import ArtifactError
from clip_fewshot.runtime.files import hash_file, read_json
from clip_fewshot.runtime.reading import decode_json
from clip_fewshot.runtime.tensor_file import read_metadata

CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
HEADS_AND_ACTIVATION = {"vision_heads": int, "text_heads": int, "activation": str}
EPSILON = 1e-5  # of all norms here
VOCABULARY = 49_408  # a larger one is another tokenizer
HUGGING_FACE_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_python": "gelu"}  # of those, ours
# Of a tower in open_clip's configs: what shapes show or is read here, and what matters in training alone.
VISION_READ = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"}
TEXT_READ = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
OPEN_CLIP_USUAL = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}
# How pictures become inputs here, under Hugging Face's names and under open_clip's.
PREPARED: dict[str, Any] = {
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "resample": 3,  # bicubic
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True),
    "mean": list(CLIP_MEAN),
    "std": list(CLIP_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def read_stated(path: Path, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Fields of :class:`CLIPConfig` that a file of weights or its neighbours state; None where nothing does.

    Args:
        path: the file; of weights in several, the first.
        state: the tensors. OpenAI's archives are known by the constants among them, and in a folder the config of the
            library whose keys they have is read.

    Raises:
        ArtifactError: nonsense in that place, or settings that we do not build.
    """
    text = read_metadata(path).get(STATED)
    if text is not None:
        return _checked(_parsed(text), f"{path}, {STATED}", frozenset(HEADS_AND_ACTIVATION))
    if state.keys() >= NOT_WEIGHTS:
        return {}
    for place in (path.with_suffix(".json"), path.with_name(OPEN_CLIP_CONFIG), path.with_name(CONFIG)):
        config = read_json(place) if os.path.isfile(place) else None
        if isinstance(config, dict) and (place.stem == path.stem or _is_of(config, path, SIGN in state)):
            stated = _read_config(config, place)
            if stated is not None:
                return stated if "vocab_size" in stated else of_usual_texts(stated, state, str(place))
    return None


def _is_of(config: Mapping[str, Any], path: Path, hugging_face: bool) -> bool:
    """Whether the config of a folder is of this file: not if its library gives tensors other names, or by its digest.

    A folder may hold another library's file of the same sizes, with other heads.
    """
    same = config["sha256"] == hash_file(path) if "sha256" in config else True
    return ("vision_config" in config) is hugging_face and same


def of_usual_texts(given: dict[str, Any], state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Heads and activation that a user gives for weights of the usual vocabulary.

    Raises:
        ArtifactError: another vocabulary. Its tokens are others, and Hugging Face's code may look for another end.
    """
    sizes = {len(table) for key, table in state.items() if key.endswith("token_embedding.weight")}
    _refuse({"vocab_size": sizes} if sizes - {VOCABULARY} else {}, where)
    return given


def _read_config(config: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """The fields of :class:`CLIPConfig` in JSON of one of the three forms; None of another."""
    if "text_config" in config and "vision_config" in config:
        processors = [place for place in map(path.with_name, PROCESSORS) if place.is_file()]
        return read_hugging_face(config, str(path), *map(read_json, processors))
    if "model_cfg" in config or {"vision_cfg", "text_cfg"} <= config.keys():
        return _read_open_clip(config, str(path))
    known = frozenset(field.name for field in fields(CLIPConfig))
    return _checked(config, str(path), known | {"sha256"}) if HEADS_AND_ACTIVATION.keys() <= config.keys() else None


def read_hugging_face(config: Mapping[str, Any], where: str, *processors: Any) -> dict[str, Any]:
    """The fields of :class:`CLIPConfig` in the config of a ``CLIPModel``, as a dictionary.

    Args:
        where: for messages.
        processors: what its files say of how pictures are prepared.

    Raises:
        ArtifactError: a model of another kind, or settings that we do not build.
    """
    try:
        vision, text = (config.get(f"{name}_config_dict") or config[f"{name}_config"] for name in ("vision", "text"))
        kind, acts = (
            config.get("model_type", "clip"),
            {tower.get("hidden_act", "quick_gelu") for tower in (vision, text)},
        )
        epsilons = {tower.get("layer_norm_eps", EPSILON) for tower in (vision, text)}
        vocabulary, end = text.get("vocab_size", VOCABULARY), text.get("eos_token_id", VOCABULARY - 1)
        settings = {
            "model_type": (kind, kind == "clip"),
            "hidden_act": (acts, len(acts) == 1 and acts <= HUGGING_FACE_ACTIVATIONS.keys()),
            "layer_norm_eps": (epsilons, epsilons == {EPSILON}),
            "eos_token_id": (end, end in (2, vocabulary - 1)),  # 2 stands for the highest id, which ends a text here
            "vocab_size": (vocabulary, vocabulary <= VOCABULARY),
        }
        odd = odd_preparation(*(found.get("image_processor", found) for found in processors))
        odd |= {name: value for name, (value, usual) in settings.items() if not usual}
        found = {
            "embed_dim": config.get("projection_dim", 512),
            "image_size": _side(vision.get("image_size", 224)),
            "vision_layers": vision.get("num_hidden_layers", 12),
            "vision_width": vision.get("hidden_size", 768),
            "vision_heads": vision.get("num_attention_heads", 12),
            "patch_size": _side(vision.get("patch_size", 32)),
            "text_width": text.get("hidden_size", 512),
            "text_layers": text.get("num_hidden_layers", 12),
            "text_heads": text.get("num_attention_heads", 8),
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": vocabulary,
            "activation": HUGGING_FACE_ACTIVATIONS.get(str(acts.pop()), ""),
        }
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise _not_a_config(error, where) from error
    _refuse(odd, where)
    return _checked(found, where, frozenset(found))


def _read_open_clip(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        model = config.get("model_cfg", config)
        vision, text = model["vision_cfg"], model["text_cfg"]
        odd = odd_preparation(config.get("preprocess_cfg", {}))
        towers = [(item, VISION_READ) for item in vision.items()] + [(item, TEXT_READ) for item in text.items()]
        for (name, value), read in towers:
            if value and name not in read and value not in OPEN_CLIP_USUAL.get(name, ()):
                odd[name] = value
        resnet, width = isinstance(vision.get("layers"), list), vision.get("width", 768)
        found = {
            "embed_dim": model["embed_dim"],
            "image_size": _side(vision.get("image_size", 224)),
            "vision_layers": tuple(vision["layers"]) if resnet else vision.get("layers", 12),
            "vision_width": width,
            "vision_heads": width * (32 if resnet else 1) // vision.get("head_width", 64),
            "patch_size": None if resnet else _side(vision.get("patch_size", 16)),
            "text_width": text.get("width", 512),
            "text_layers": text.get("layers", 12),
            "text_heads": text.get("heads", 8),
            "context_length": text.get("context_length", 77),
            "vocab_size": text.get("vocab_size", VOCABULARY),
            "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
        }
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
        raise _not_a_config(error, where) from error
    _refuse(odd if found["vocab_size"] == VOCABULARY else odd | {"vocab_size": found["vocab_size"]}, where)
    return _checked(found, where, frozenset(found))


def odd_preparation(*found: Mapping[str, Any]) -> dict[str, Any]:
    """What prepares pictures otherwise than here."""
    given = [item for settings in found for item in settings.items()]
    plain = [(name, list(value) if isinstance(value, tuple) else value) for name, value in given]
    return {name: value for name, value in plain if name in PREPARED and value not in (None, PREPARED[name])}


def _refuse(odd: Mapping[str, Any], where: str) -> None:
    if odd:
        raise ArtifactError(
            expected="a CLIP model of OpenAI's architecture, its texts and pictures prepared as OpenAI's",
            got=", ".join(f"{name} {str(value)[:60]!r}" for name, value in odd.items()),
            fix="choose another model; activation= and heads= do not change this",
            where=where,
        )


def _checked(found: Any, where: str, known: frozenset[str]) -> dict[str, Any]:
    """``found`` without a digest, if its names are ``known`` and the kinds of heads and activation are right."""
    if not isinstance(found, dict) or not found.keys() <= known:
        raise _not_a_config(f"{str(found)[:80]!r}", where)
    wrong = {name for name, kind in HEADS_AND_ACTIVATION.items() if name in found and type(found[name]) is not kind}
    if wrong:
        raise _not_a_config(", ".join(f"{name} {str(found[name])[:40]!r}" for name in sorted(wrong)), where)
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items() if name != "sha256"}


def _parsed(text: str) -> Any:
    try:
        return decode_json(text)
    except ValueError:
        return text


def _side(value: Any) -> Any:
    """One side of a square that may be written as two."""
    return value[0] if isinstance(value, list | tuple) and len({*value}) == 1 else value


def _not_a_config(got: object, where: str) -> ArtifactError:
    return ArtifactError(
        expected="heads and activation of a CLIP model", got=str(got), fix="get an undamaged copy", where=where
    )
