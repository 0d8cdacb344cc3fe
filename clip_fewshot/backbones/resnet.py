"""CLIP's modified ResNet as a tower."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_fewshot.backbones.one_query import one_query_attention
from clip_fewshot.backbones.tower import CutState, Tail, Tower

EXPANSION = 4  # outgoing over inner channels of a bottleneck


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around which the input is added (He et al., "Deep Residual Learning", 2016, fig. 5).

    Every convolution has stride 1; where the block shrinks the map, an average pool does it, which does not alias
    (Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019).
    """

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out = inner * EXPANSION
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        nn.init.zeros_(self.bn3.weight)  # each block starts as the identity (Goyal et al., 2017, sec. 5.1)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            parts = [
                ("-1", nn.AvgPool2d(stride)),
                ("0", nn.Conv2d(channels, out, 1, bias=False)),
                ("1", nn.BatchNorm2d(out)),
            ]
            self.downsample = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, 4 inner, h / stride, w / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.avgpool(y)))
        return functional.relu(y + self.downsample(x))


class AttentionPool(Tail):
    """Attention whose only query is the mean of the map (Radford et al., 2021, sec. 2.4), with an output projection."""

    def __init__(self, side: int, width: int, heads: int, out_features: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(side**2 + 1, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out_features)
        weights = (layer.weight for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj))
        for parameter in (self.positional_embedding, *weights):
            nn.init.normal_(parameter, std=width**-0.5)

    def forward(self, state: CutState) -> Tensor:
        """State after the last block -> (b, out) features, not normalised."""
        tokens = self.tokens(state)
        query = self.q_proj(tokens[:, 0]).reshape(tokens.shape[0], self.heads, -1)
        key, value = (layer.weight.reshape(self.heads, -1, tokens.shape[2]) for layer in (self.k_proj, self.v_proj))
        mixed = one_query_attention(query, tokens, key, value, self.v_proj.bias.reshape(self.heads, -1))
        features: Tensor = self.c_proj(mixed)
        return features

    def tokens(self, state: CutState) -> Tensor:
        """(b, c, h, w) -> (b, 1 + h w, c): the mean first, then the places, with their positional embedding."""
        places = state.tokens.flatten(2).transpose(1, 2)
        return torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding


class ModifiedResNet(Tower):
    """ResNet-D with anti-aliased pooling and attention pooling (Radford et al., 2021, sec. 2.4).

    The stem is three convolutions and a pool; the residual blocks are the bottlenecks of layer1 to layer4 in order.
    """

    halves = False

    def __init__(self, image_size: int, layers: Sequence[int], width: int, heads: int, out_features: int) -> None:
        super().__init__()
        self.out_features, self.token_features = out_features, width * 32
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool(image_size // 32, width * 32, heads, out_features)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The bottlenecks of all four stages, first to last."""
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]

    def embed(self, inputs: Tensor) -> CutState:
        """(b, 3, h, w) pixels, normalised -> (b, width, h / 4, w / 4)."""
        x = functional.relu(self.bn1(self.conv1(inputs)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = functional.avg_pool2d(functional.relu(self.bn3(self.conv3(x))), 2)
        return CutState(x, torch.zeros(x.shape[0], dtype=torch.int64, device=x.device))

    def tail(self) -> AttentionPool:
        """The attention pooling, not a copy."""
        return self.attnpool


def _stage(channels: int, inner: int, n_blocks: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(inner * EXPANSION, inner, stride=1) for _ in range(n_blocks - 1)]
    return nn.Sequential(Bottleneck(channels, inner, stride), *rest)
