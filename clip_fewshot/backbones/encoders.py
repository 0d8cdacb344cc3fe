"""What a pair of encoders is made of: a network, what its inputs are made with, and where it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.encoder_tower import EncoderParts, EncoderTower, Pool, TextEncoderTower
from clip_fewshot.backbones.shapes import WholeText, cut_image, cut_text, strip_classifier
from clip_fewshot.data.image import Colour, Geometry
from clip_fewshot.errors import UsageError

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
PARTS_TOLERANCE = 1e-5  # relative, between an encoder and its parts, which round in the same way
SAMPLES = ("a", "The quick brown fox jumps over the lazy dog, 1234567890 times!", "Öl, naïve café \u2014 東京")

Encoder = TypeVar("Encoder", bound=EncoderTower)


@dataclass(frozen=True)
class ImageEncoder:
    """An encoder of pictures, in evaluation mode or not; a pair takes its modules over.

    Args:
        module: (b, 3, size, size) pixels -> features. Of well-known shapes (ResNet, EfficientNet, ConvNeXt and
            VisionTransformer of torchvision and timm, EfficientNet-PyTorch, ``nn.Sequential``) the blocks are found and
            a classifier at the end is left out; any other is taken as it is, as one block that gives (b, d), tokens
            (b, l, d) or a map (b, d, h, w).
        size: side of the pictures in pixels, brought to it as OpenAI's are; or how they are.
        mean, std: of the channels, as the encoder was trained; default ImageNet's.
        parts: where to cut an encoder of another shape, so that some of its blocks can be trained.
        whole: take even a well-known shape as one block, its classifier included.

    Example:
        >>> import torch
        >>> import clip_fewshot as cf
        >>> layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU())
        >>> tower = cf.ImageEncoder(layers, size=32).tower(out_features=16)
        >>> tower(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 16])
    """

    module: nn.Module
    size: int | Geometry = 224
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    parts: EncoderParts | None = None
    whole: bool = False

    @property
    def geometry(self) -> Geometry:
        """How pictures become its inputs."""
        return self.size if isinstance(self.size, Geometry) else Geometry(self.size)

    def tower(self, out_features: int | None) -> EncoderTower:
        """The encoder in its parts, behind a projection that is drawn from torch's global generator; None: its own.

        Raises:
            UsageError: it cannot read its pictures, or gives no features.
        """
        module = self.module.float().eval()
        found = None if self.whole or self.parts else cut_image(module)
        whole = EncoderParts(nn.Identity(), [module if found is None else strip_classifier(module)], Pool())
        side = self.geometry.size
        pictures = torch.linspace(-2, 2, 6 * side**2, device=_device(module)).reshape(2, 3, side, side)
        parts, width = _chosen(EncoderTower, pictures, self.parts or found or whole, whole if found else None)
        return _evaluating(EncoderTower(parts, width, out_features))


@dataclass(frozen=True)
class TokenRows:
    """Texts as rows of token ids, all of one length.

    Attributes:
        tokenizer: text -> ids with their marks.
        length: of a row.
        pad: the id that fills it up.
    """

    tokenizer: Callable[[str], Sequence[int]]
    length: int
    pad: int

    def __call__(self, texts: Sequence[str], truncate: bool) -> Tensor:
        """Texts -> (n, length) int64."""
        rows = torch.full((len(texts), self.length), self.pad, dtype=torch.int64)
        for i, text in enumerate(texts):
            ids = list(self.tokenizer(text))
            if not ids:
                raise UsageError(
                    expected="at least one token",
                    got=f"none in {text[:60]!r}",
                    fix="write something",
                    where=f"text {i}",
                )
            if len(ids) > self.length:
                if not truncate:
                    got, fix = f"{len(ids)} in {text[:60]!r}", "shorten it, or truncate=True"
                    raise UsageError(expected=f"at most {self.length} tokens", got=got, fix=fix, where=f"text {i}")
                ids = [*ids[: self.length - 1], ids[-1]]
            rows[i, : len(ids)] = torch.tensor(ids)
        return rows

    def about(self) -> dict[str, Any]:
        """What decides the rows, as JSON; a tokenizer without a digest is known by what it makes of sample texts."""
        words = getattr(self.tokenizer, "digest", None) or [list(map(int, self.tokenizer(text))) for text in SAMPLES]
        return {"tokenizer": words, "length": self.length, "pad": self.pad}


@dataclass(frozen=True)
class TextEncoder:
    """An encoder of texts; a pair takes its modules over.

    Args:
        module: a model of transformers, or (ids, mask) -> tokens (b, l, d) or vectors (b, d). BERT and models of its
            shape are cut into their layers, any other is one block.
        tokenizer: text -> token ids with their marks, not padded; a :class:`JsonTokenizer` for Hugging Face's.
        pool: "mean" over a text's tokens (default), "first", "end" (its last token), or "pooler" (the encoder's own).
        context_length: most tokens of a text, marks among them.
        pad: the id that fills up; None takes ``tokenizer.pad``, or -1, which no text contains.
        padded: the encoder reads the padding too, as SigLIP's does: no row is ever cut short, and each ends at its end.
        parts, whole: as in :class:`ImageEncoder`.
    """

    module: nn.Module
    tokenizer: Callable[[str], Sequence[int]]
    pool: str = "mean"
    context_length: int = 77
    pad: int | None = None
    padded: bool = False
    parts: EncoderParts | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "first", "end", "pooler"):
            got = repr(self.pool)
            raise UsageError(expected="mean, first, end or pooler", got=got, fix="check the spelling", where="pool")

    @property
    def rows(self) -> TokenRows:
        """What makes its inputs."""
        pad = int(getattr(self.tokenizer, "pad", -1)) if self.pad is None else self.pad
        return TokenRows(self.tokenizer, self.context_length, pad)

    def tower(self, out_features: int | None) -> TextEncoderTower:
        """The encoder in its parts, behind a projection that is drawn from torch's global generator; None: its own."""
        module, pooler = self.module.float().eval(), self.pool == "pooler"
        found = None if self.whole or self.parts else cut_text(module, self.pool)
        whole = EncoderParts(nn.Identity(), [WholeText(module, pooler)], Pool("mean" if pooler else self.pool))
        rows = self.rows
        tokens = rows(SAMPLES, truncate=True)
        longest = tokens[1][tokens[1] != rows.pad].repeat(rows.length)[: rows.length]
        tokens = torch.cat([tokens, longest[None]]).to(_device(module))
        build = partial(TextEncoderTower, pad=None if self.padded else rows.pad)
        parts, width = _chosen(build, tokens, self.parts or found or whole, whole if found else None)
        return _evaluating(build(parts, width, out_features))


def _chosen(
    build: Callable[[EncoderParts, int, int | None], EncoderTower],
    inputs: Tensor,
    parts: EncoderParts,
    whole: EncoderParts | None,
) -> tuple[EncoderParts, int]:
    """``parts``, or ``whole`` where that computes something else from trial inputs; and the width of the features.

    A shape is known by names alone. MPNet has BERT's and adds a bias, VGG has EfficientNet's and does not average.
    """
    features = _tried(build(parts._replace(projection=None), 0, None), inputs)
    if whole is not None:
        expected = _tried(build(whole, 0, None), inputs)
        same = features.shape == expected.shape
        if not same or not bool((features - expected).abs().max() <= PARTS_TOLERANCE * expected.abs().max()):
            return whole, expected.shape[1]
    return parts, features.shape[1]


def _evaluating(tower: Encoder) -> Encoder:
    tower.eval()
    return tower


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@torch.no_grad()
def _tried(tower: EncoderTower, inputs: Tensor) -> Tensor:
    """Features of trial inputs."""
    try:
        features: Tensor = tower.eval()(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        got, fix = f"{type(error).__name__}: {error}", "check size, context length and parts"
        raise UsageError(
            expected=f"an encoder of inputs {tuple(inputs.shape)}", got=got, fix=fix, where="encoder"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(inputs):
        got = str(tuple(features.shape)) if isinstance(features, Tensor) else type(features).__name__
        expected = f"features ({len(inputs)}, d)"
        raise UsageError(expected=expected, got=got, fix="end the encoder or its parts with a pooling", where="encoder")
    return features
