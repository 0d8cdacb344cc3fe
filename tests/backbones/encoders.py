"""Small encoders of the shapes that others build, with random weights, and a tokenizer of letters."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.runtime import rng

SIZE, WIDTH, CLASSES = 16, 24, 7


class Residual(nn.Module):
    """A residual block with a batch normalisation."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)) + self.skip(x))


class ResNet(nn.Module):
    """The shape of torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(Residual(8, 8), Residual(8, 8))
        self.layer2, self.layer3 = nn.Sequential(Residual(8, 12)), nn.Sequential(Residual(12, 16))
        self.layer4 = nn.Sequential(Residual(16, WIDTH))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class EfficientNet(nn.Module):
    """The shape of the package EfficientNet-PyTorch and its kin."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0, self._swish = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.SiLU()
        self._blocks = nn.ModuleList([Residual(8, 8), Residual(8, 12)])
        self._conv_head, self._bn1 = nn.Conv2d(12, WIDTH, 1), nn.BatchNorm2d(WIDTH)
        self._avg_pooling, self._dropout, self._fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self._swish(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = self._avg_pooling(self._swish(self._bn1(self._conv_head(x))))
        logits: Tensor = self._fc(self._dropout(x.flatten(1)))
        return logits


class VisionTransformer(nn.Module):
    """The shape of torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj, self.class_token = nn.Conv2d(3, WIDTH, 8, 8), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.encoder.dropout, self.encoder.ln = nn.Dropout(0.0), nn.LayerNorm(WIDTH)
        layer = {"d_model": WIDTH, "nhead": 2, "dim_feedforward": 32, "dropout": 0.1, "batch_first": True}
        self.encoder.layers = nn.Sequential(*(nn.TransformerEncoderLayer(**layer) for _ in range(3)))
        self.heads = nn.Sequential(nn.Linear(WIDTH, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1) + self.encoder.pos_embedding
        logits: Tensor = self.heads(self.encoder.ln(self.encoder.layers(self.encoder.dropout(tokens)))[:, 0])
        return logits


class Layer(nn.Module):
    """A layer of BERT in miniature: attention that adds a mask to its scores, then a perceptron; norms behind both."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm, self.mlp, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor]:
        scores = self.query(x) @ self.key(x).mT / WIDTH**0.5 + mask[:, 0]
        x = self.norm(x + self.dropout(scores.softmax(-1) @ self.value(x)))
        return (self.last(x + torch.nn.functional.gelu(self.mlp(x))),)


class Embeddings(nn.Module):
    def __init__(self, longest: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, WIDTH), nn.Embedding(longest, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return embedded


class Pooler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        return torch.tanh(self.dense(states[:, 0]))


class Bert(nn.Module):
    """The shape of transformers' BERT, called as its models are."""

    def __init__(self, layers: int = 3, longest: int = 20) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.embeddings, self.encoder, self.pooler = Embeddings(longest), nn.Module(), Pooler()
        self.encoder.layer = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = attention_mask[:, None, None] == 0
        mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
        states = self.embeddings(input_ids)
        for layer in self.encoder.layer:
            (states,) = layer(states, mask)
        return SimpleNamespace(last_hidden_state=states, pooler_output=self.pooler(states))


class Bag(nn.Module):
    """An encoder of texts of no known shape: the mean of its words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        vectors = self.words(ids) * mask[..., None]
        return vectors.sum(1) / mask.sum(1, keepdim=True)


@dataclass(frozen=True)
class Letters:
    """Ids of letters between two marks; other signs are one id."""

    pad: int = 0

    def __call__(self, text: str) -> list[int]:
        return [1, *(3 + (ord(sign) - ord("a") if "a" <= sign <= "z" else 26) for sign in text), 2]


def sequential() -> nn.Sequential:
    convolutions = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, WIDTH, 3, stride=2), nn.ReLU())
    return nn.Sequential(nn.Upsample(scale_factor=1), *convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def settled(module: nn.Module) -> nn.Module:
    """Batch normalisations with statistics that are not those of a fresh network."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module


def image_encoder(kind: type[nn.Module] = ResNet, seed: int = 0) -> ImageEncoder:
    with rng.seed_torch(seed, "image encoder"):
        return ImageEncoder(settled(kind()), SIZE, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.25))


def text_encoder(pool: str = "mean", seed: int = 0, length: int = 20, **options: Any) -> TextEncoder:
    with rng.seed_torch(seed, "text encoder"):
        return TextEncoder(Bert(longest=length), Letters(), pool, length, **options)


def pair(image_layers: int | None = 0, text_layers: int | None = 0, seed: int = 0) -> PairBackbone:
    images, texts = image_encoder(seed=seed), text_encoder(seed=seed, length=80)
    return PairBackbone(images, texts, 12, image_layers=image_layers, text_layers=text_layers, seed=seed)
