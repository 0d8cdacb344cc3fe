"""Models of transformers as backbones: their own towers, tokenizer and preprocessing, proven when they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, isclose
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.backbones.foreign import ForeignBackbone
from clip_fewshot.backbones.hub import HUB_PREFIX, fetch_from_hub
from clip_fewshot.backbones.proof import draw_trial_pictures, prove
from clip_fewshot.backbones.transformers_package import Source, read_source
from clip_fewshot.backbones.transformers_shapes import cut_pictures, cut_texts
from clip_fewshot.data.image import Colour, Geometry
from clip_fewshot.errors import ArtifactError
from clip_fewshot.runtime.files import hash_bytes

VOLATILE = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "auto_map"}
GREY_TOLERANCE = 1.5  # in 255: what rounding to whole ones between two passes of a resizing may make
UNSHIFTED, UNSCALED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and deviation of pixels that stay in [0, 1]


def load_transformers(folder: Path, name: str, model: Any = None) -> ForeignBackbone:
    """The model of a folder of ``save_pretrained``: SigLIP, MetaCLIP, DINOv2 and 3, AIMv2, and others of their shapes.

    Args:
        model: an object of transformers that is used in place of the folder's weights; it stays as it is.

    Raises:
        ResourceError: transformers is not installed.
        ArtifactError: files that are missing or that transformers cannot read, a kind of model or preprocessing that is
            not known here, or features that are not those of transformers.
    """
    source = read_source(folder, model)
    geometry, mean, std = read_preparation(source.preparation, str(folder))
    image = _image_encoder(source.model, geometry, mean, std)
    text = None if source.tokenizer is None else _text_encoder(source, name)
    scale, bias = (getattr(source.model, key, None) for key in ("logit_scale", "logit_bias"))
    backbone = ForeignBackbone(
        image,
        text,
        name=name,
        settings=_plain_settings(source.model.config.to_diff_dict()),
        scale=None if scale is None else exp(scale.item()),
        bias=None if bias is None else bias.item(),
    )
    prove(backbone, _own_pictures(source, backbone), None if text is None else _own_texts(source, text))
    return backbone


def load_transformers_object(model: Any) -> ForeignBackbone:
    """A model of transformers with the tokenizer and the preprocessing that lie where it was loaded from.

    Raises:
        ArtifactError: as :func:`load_transformers`; or it was loaded from nowhere.
    """
    place = str(getattr(model, "name_or_path", ""))
    if place and Path(place).is_dir():
        return load_transformers(Path(place), place, model)
    if place.count("/") == 1:
        name = f"{HUB_PREFIX}{place}"
        return load_transformers(fetch_from_hub(name), name, model)
    raise ArtifactError(
        expected="a model that was loaded from a folder or the hub, where its preprocessing is",
        got=f"a {type(model).__name__} from nowhere",
        fix="call save_pretrained(folder) on it and on its processor, and name the folder",
        where="model",
    )


def read_preparation(settings: Mapping[str, Any], where: str) -> tuple[Geometry, Colour, Colour]:
    """Geometry, mean and deviation in the settings of an image processor.

    Raises:
        ArtifactError: pictures that are prepared in another way than to one square.
    """
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    cropped, short = bool(settings.get("do_center_crop")), size.get("shortest_edge")
    to = short or size.get("height")
    side = crop.get("height") if cropped else to
    odd = {
        "do_resize": not settings.get("do_resize", True),
        "do_rescale": not settings.get("do_rescale", True),
        "do_pad": settings.get("do_pad"),
        "rescale_factor": not isclose(settings.get("rescale_factor") or 1 / 255, 1 / 255, rel_tol=1e-6),
        "size": (not short and size.get("height") != size.get("width"))
        or {*size} - {"shortest_edge", "height", "width"},
        "crop_size": (cropped and crop.get("height") != crop.get("width")) or bool(short and not cropped),
    }
    wrong = [key for key, is_odd in odd.items() if is_odd]
    if wrong or not isinstance(to, int) or not isinstance(side, int) or not 0 < side <= to:
        got = ", ".join(f"{key} {settings.get(key)}" for key in wrong or ("size", "crop_size"))
        fix = "choose a model of one square size"
        raise ArtifactError(expected="pictures that become one square", got=got, fix=fix, where=where)
    resample = Image.Resampling(settings.get("resample", 2)).name.lower()
    resize = None if to == side else to
    geometry = Geometry(side, resize, squash=not short, resample=resample, floor=True, rgb_first=True)
    if not settings.get("do_normalize", True):
        return geometry, UNSHIFTED, UNSCALED
    return geometry, _colour(settings["image_mean"]), _colour(settings["image_std"])


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = map(float, values)
    return red, green, blue


def _image_encoder(model: Any, geometry: Geometry, mean: Colour, std: Colour) -> ImageEncoder:
    tower = getattr(model, "vision_model", model)
    parts = cut_pictures(tower, getattr(model, "visual_projection", None), geometry.size)
    return ImageEncoder(tower, geometry, mean, std, parts)


def _text_encoder(source: Source, name: str) -> TextEncoder:
    """SigLIP's tower reads a whole row, padding and all; the others' are causal and end at a text's end mark."""
    model, padded = source.model, hasattr(source.model, "logit_bias")
    tower = model.text_model
    parts = cut_texts(tower, getattr(model, "text_projection", None), causal=not padded)
    if parts is None:
        fix = "choose a CLIP, SigLIP, MetaCLIP or AIMv2"
        got = f"that of {type(model).__name__}"
        raise ArtifactError(expected="a text tower of CLIP's or SigLIP's shape", got=got, fix=fix, where=name)
    length = model.config.text_config.max_position_embeddings
    pad = source.tokenizer.pad_token_id if padded else -1
    return TextEncoder(tower, Tokens(source.tokenizer), "end", length, pad, padded, parts)


class Tokens:
    """A tokenizer of transformers: text -> token ids with its marks, neither cut nor padded.

    Attributes:
        digest: SHA-256 of what it consists of, or None where it does not tell.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        inner = getattr(tokenizer, "backend_tokenizer", None)
        if inner is not None:
            inner.no_padding()
            inner.no_truncation()
        self.digest = None if inner is None else hash_bytes(inner.to_str().encode())

    def __call__(self, text: str) -> list[int]:
        """Text -> token ids."""
        ids: list[int] = self._tokenizer(text, padding=False, truncation=False, verbose=False)["input_ids"]
        return ids


def _own_pictures(source: Source, backbone: ForeignBackbone) -> Callable[[Image.Image], Tensor]:
    """transformers' own way from a picture to its features.

    Some processors (DINOv3's) exist for torchvision alone, which resizes without rounding between its passes: theirs
    must be ours to a grey level, and the features are compared on the same pixels.
    """
    exact = source.processor is not None and getattr(source.processor, "backend", "pil") == "pil"
    if source.processor is not None and not exact:
        for picture in draw_trial_pictures(backbone.image_size):
            off = (_pixels(source, picture)[0] - backbone.preprocess(picture)).abs().amax((1, 2)) * 255
            if not bool((off * torch.tensor(backbone.std) <= GREY_TOLERANCE).all()):
                got, fix = f"{float(off.max()):.2g} of 255 beside them", "choose another model"
                raise ArtifactError(expected="its own pixels", got=got, fix=fix, where=backbone.name)

    def features(picture: Image.Image) -> Tensor:
        pixels = _pixels(source, picture) if exact else backbone.preprocess(picture)[None]
        ask = getattr(source.model, "get_image_features", source.model)
        return _vector(ask(pixel_values=pixels))

    return features


def _own_texts(source: Source, text: TextEncoder) -> Callable[[Sequence[str]], Tensor]:
    """transformers' own way from texts to their features; SigLIP has seen no mask in training."""

    def features(texts: Sequence[str]) -> Tensor:
        limits = {"padding": "max_length", "max_length": text.context_length, "truncation": True}
        given = source.tokenizer(list(texts), return_tensors="pt", **limits)
        kept = ("input_ids",) if text.padded else ("input_ids", "attention_mask")
        return _vector(source.model.get_text_features(**{key: given[key] for key in kept if key in given}))

    return features


def _pixels(source: Source, picture: Image.Image) -> Tensor:
    pixels = source.processor(images=picture, return_tensors="pt")["pixel_values"]
    return torch.as_tensor(np.asarray(pixels))


def _vector(out: Any) -> Tensor:
    vector: Tensor | None = out if isinstance(out, Tensor) else out.pooler_output
    if vector is None:
        raise ValueError("it gives tokens, and no vector of a whole picture")
    return vector.flatten(1)


def _plain_settings(config: Any) -> Any:
    """A config without what changes no feature."""
    if isinstance(config, Mapping):
        return {key: _plain_settings(value) for key, value in config.items() if key not in VOLATILE}
    return config
