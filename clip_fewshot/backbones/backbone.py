"""Backbone: an image tower, a text tower, and what turns pictures and texts into their inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from math import log
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.tokenizer import tokenize
from clip_fewshot.backbones.tower import TextTower, Tower
from clip_fewshot.data import image as pictures
from clip_fewshot.data.image import Geometry
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.device import autocast_activations

LOGIT_SCALE_START = log(1 / 0.07)  # Radford et al., 2021, sec. 2.5
MAX_LOG_SCALE = log(100)  # the same: larger ones made training unstable
TEXT_PREFIX, VISUAL_PREFIX, SCALE_KEY = "text.", "visual.", "logit_scale"
NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})  # constants in OpenAI's archives


class Backbone(nn.Module):
    """A CLIP model (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021).

    Parameters are float32 always; under an optimiser half-precision weights stop moving or become NaN. The keys of
    :meth:`state_dict` are those of OpenAI's code, where the text tower's parameters have no prefix.

    Attributes:
        name: what the model is called in reports.
        config: its architecture.
        visual, text: the towers.
        logit_scale: logarithm of the factor on cosines.
        logit_bias: of models that were trained with a sigmoid, what is added to that; None for all others.
        reads_texts: False where the text tower is missing; whatever needs texts is then refused.
        geometry: how they become that square.
        mean, std: of each channel, taken out of pixels in [0, 1].
        activation_dtype: precision of activations in :meth:`autocast`; None chooses by the device.

    Example:
        >>> import clip_fewshot as cf
        >>> backbone: cf.Backbone = cf.load_backbone("mini")
        >>> backbone.encode_text(backbone.tokenize(["a seven", "a photo of a two"])).shape
        torch.Size([2, 128])
    """

    logit_bias: nn.Parameter | None
    reads_texts = True

    def __init__(self, config: CLIPConfig, name: str = "custom") -> None:
        super().__init__()
        self.config, self.context_length = config, config.context_length
        self._assemble(name, config.build_visual(), config.build_text(), Geometry(config.image_size))
        self.register_state_dict_post_hook(_leave_text_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_enter_text_prefix)  # type: ignore[no-untyped-call]

    def _assemble(self, name: str, visual: Tower, text: TextTower, geometry: Geometry) -> None:
        """What every pair of towers has."""
        self.name, self.geometry = name, geometry
        self.mean, self.std = pictures.CLIP_MEAN, pictures.CLIP_STD
        self.visual, self.text = visual, text
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_START))
        self.register_parameter("logit_bias", None)
        self.activation_dtype: torch.dtype | None = None
        self._digest: tuple[list[tuple[int, int]], dict[str, Any], str] | None = None

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self).__name__}({self.name!r}, {size:,} parameters, {self.image_size} px, {self.device})"

    @property
    def image_size(self) -> int:
        """Side of the square that pictures are brought to, in pixels."""
        return self.geometry.size

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.logit_scale.device

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of forward passes on this device; enter it around towers and suffixes that you run yourself."""
        return autocast_activations(self.device, self.activation_dtype)

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) preprocessed pixels -> (b, d) float32 features, not normalised."""
        with self.autocast():
            features: Tensor = self.visual(images.to(self.device))
        return features.float()

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(b, l) token ids -> (b, d) float32 features, not normalised."""
        with self.autocast():
            features: Tensor = self.text(self.trim(tokens).to(self.device))
        return features.float()

    @torch.no_grad()
    def match(self, cosines: Tensor) -> Tensor | None:
        """How probable it is that a text fits a picture, by their cosine: of models that were trained with a sigmoid.

        Each pair stands by itself (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, sec. 3.2). Where
        one of several texts is known to fit, it is their softmax that says which: the bias cancels there.
        """
        if self.logit_bias is None:
            return None
        return (self.logit_scale.exp() * cosines.to(self.device) + self.logit_bias).sigmoid()

    def preprocess(self, image: Image.Image) -> Tensor:
        """A picture -> (3, h, w) float32: short side resized, centre cropped, mean and deviation taken out."""
        return torch.from_numpy(pictures.preprocess(image, self.geometry, self.mean, self.std))

    def tokenize(self, texts: str | Sequence[str], truncate: bool = False) -> Tensor:
        """Texts -> (n, 77) int64 token ids; a text over 77 tokens is an error, or cut with ``truncate``."""
        return tokenize(texts, truncate, self.context_length)

    def trim(self, tokens: Tensor) -> Tensor:
        """(b, l) token ids without the columns behind the last end of a text.

        Short prompts then cost a sixth of CLIP's full context; the features differ by rounding alone.
        """
        return tokens[:, : int(self.text.ends(tokens).max()) + 1] if len(tokens) else tokens

    @property
    def digest(self) -> str:
        """SHA-256 over weights, architecture and preprocessing: equal digests mean equal features."""
        state = self.state_dict()
        version = [(tensor.data_ptr(), tensor._version) for tensor in state.values()]
        about = self._about()
        if self._digest is None or self._digest[:2] != (version, about):  # hashing a large model takes seconds
            self._digest = version, about, _digest(about, state)
        return self._digest[2]

    def header(self) -> dict[str, str]:
        """Texts for the header of a file with these weights: what their shapes do not show, and who is misled."""
        return self.config.header()

    def _about(self) -> dict[str, Any]:
        """What decides the features besides the weights, as JSON."""
        return {"config": asdict(self.config), "preprocess": "CLIP", "mean": list(self.mean), "std": list(self.std)}


def build_backbone(config: CLIPConfig, seed: int = 0, name: str = "custom") -> Backbone:
    """A freshly initialised model in evaluation mode, by OpenAI's scheme, from its own seeded generator."""
    with rng.seed_torch(seed, "backbone"):
        return Backbone(config, name).eval()


def _digest(about: dict[str, Any], state: dict[str, Tensor]) -> str:
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        total.update(f"\n{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _leave_text_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Our keys -> OpenAI's."""
    inner = prefix + TEXT_PREFIX
    for key in [key for key in state if key.startswith(inner)]:
        state[prefix + key.removeprefix(inner)] = state.pop(key)


def _enter_text_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """OpenAI's keys -> ours."""
    for key in [key for key in state if key.startswith(prefix)]:
        bare = key.removeprefix(prefix)
        if bare in NOT_WEIGHTS:
            del state[key]
        elif not bare.startswith(VISUAL_PREFIX) and bare != SCALE_KEY:
            state[prefix + TEXT_PREFIX + bare] = state.pop(key)
