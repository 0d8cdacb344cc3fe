"""Where encoders of well-known shapes are cut; nothing of their packages is imported, only their attributes' names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.encoder_tower import EncoderParts, Pool, mask_up_to, replace_modules
from clip_fewshot.backbones.tower import PositionedBlock

CLASSIFIERS = ("fc", "_fc", "classifier", "heads", "head")


class Chain(NamedTuple):
    """A convolutional network by the names of its modules in order; a name in ``blocks`` may hold several blocks.

    Attributes:
        pool: the names of what lies between the last block and the mean over all places.
        finish: the name of a module that pools by itself, once its classifier is off.
    """

    stem: tuple[str, ...]
    blocks: tuple[str, ...]
    pool: tuple[str, ...] = ()
    finish: str | None = None

    def names(self) -> tuple[str, ...]:
        """The attributes of the encoder in the order in which they run."""
        return (*self.stem, *self.blocks, *self.pool, *([self.finish] if self.finish else []))


STAGES = ("layer1", "layer2", "layer3", "layer4")
CHAINS = (
    Chain(("conv1", "bn1", "relu", "maxpool"), STAGES),  # ResNet of torchvision
    Chain(("conv1", "bn1", "act1", "maxpool"), STAGES),  # and of timm
    Chain(("_conv_stem", "_bn0", "_swish"), ("_blocks",), ("_conv_head", "_bn1", "_swish")),  # EfficientNet-PyTorch
    Chain(("conv_stem", "bn1"), ("blocks",), ("conv_head", "bn2")),  # EfficientNet of timm
    Chain(("stem",), ("stages",), ("norm_pre",), "head"),  # ConvNeXt of timm
    Chain((), ("features",)),  # EfficientNet, MobileNet and more of torchvision
)


def strip_classifier(encoder: nn.Module) -> nn.Module:
    """``encoder`` without its classifier, which is no part of the features; on the same parameters."""
    for name in CLASSIFIERS:
        head = encoder._modules.get(name)
        if head is not None:
            inner = isinstance(head._modules.get("fc"), nn.Module)
            return replace_modules(encoder, **{name: strip_classifier(head) if inner else nn.Identity()})
    return encoder


def cut_image(encoder: nn.Module) -> EncoderParts | None:
    """The parts of an encoder of pictures whose shape is known; None for others."""
    if isinstance(encoder, nn.Sequential):
        return EncoderParts(nn.Identity(), group_modules(encoder), Pool())
    if _has(encoder, "conv_proj", "encoder", "heads"):
        return _torchvision_vit(encoder)
    if _has(encoder, "patch_embed", "blocks", "norm", "head") and hasattr(encoder, "_pos_embed"):
        return _timm_vit(encoder)
    for chain in CHAINS:
        if _has(encoder, *chain.names()):
            return _chained(encoder, chain)
    return None


def cut_text(encoder: nn.Module, pool: str) -> EncoderParts | None:
    """The parts of BERT and models of its shape (``embeddings``, ``encoder.layer``); None for others.

    Args:
        pool: as :class:`Pool` takes it, or "pooler" for the encoder's own.
    """
    if not (_has(encoder, "embeddings", "encoder") and _has(encoder.get_submodule("encoder"), "layer")):
        return None
    layers = _units([encoder.get_submodule("encoder.layer")])
    reduce = encoder.get_submodule("pooler") if pool == "pooler" else pool
    return EncoderParts(
        encoder.get_submodule("embeddings"), [Masked(layer) for layer in layers], Pool(reduce), halves=True
    )


def group_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """``modules`` in groups that each hold parameters: activations and poolings go with what stands before them."""
    groups: list[list[nn.Module]] = [[]]
    for module in modules:
        if any(True for _ in module.parameters()) and any(any(True for _ in m.parameters()) for m in groups[-1]):
            groups.append([])
        groups[-1].append(module)
    return [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]


class Masked(PositionedBlock):
    """A layer of BERT. Its attention takes a mask that is added to the scores: -inf at padding."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(b, l, d) and (b,) ends -> (b, l, d)."""
        hidden = ~mask_up_to(position, tokens.shape[1])[:, None, None]  # (b, 1, 1, l)
        out = self.layer(
            tokens, torch.zeros_like(hidden, dtype=tokens.dtype).masked_fill(hidden, torch.finfo(tokens.dtype).min)
        )
        states: Tensor = out[0] if isinstance(out, tuple) else out  # transformers before its release 5 gives a tuple
        return states


class WholeText(PositionedBlock):
    """A whole encoder of texts as one block, which is called with the token ids and their mask.

    Args:
        encoder: one of transformers (it has a ``config``), or anything else that takes (ids, mask) and gives tokens
            (b, l, d) or vectors (b, d).
        pooler: take the encoder's own vector.
    """

    def __init__(self, encoder: nn.Module, pooler: bool) -> None:
        super().__init__()
        self.encoder, self.pooler = encoder, pooler

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(b, l) ids and (b,) ends -> (b, l, d) or (b, d)."""
        ids, mask = tokens.long(), mask_up_to(position, tokens.shape[1]).long()  # a stored state comes back as float32
        if not hasattr(self.encoder, "config"):
            out: Tensor = self.encoder(ids, mask)
            return out
        output = self.encoder(input_ids=ids, attention_mask=mask)
        states: Tensor = output.pooler_output if self.pooler else output.last_hidden_state
        return states


class PatchStem(nn.Module):
    """The stem of torchvision's VisionTransformer: patches, class token, positions."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        encoder = vit.get_submodule("encoder")
        self.conv_proj, self.dropout = vit.get_submodule("conv_proj"), encoder.get_submodule("dropout")
        self.class_token, self.pos_embedding = vit.get_parameter("class_token"), encoder.get_parameter("pos_embedding")

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + patches, d)."""
        patches = self.conv_proj(pixels).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embedding
        states: Tensor = self.dropout(tokens)
        return states


class TimmStem(nn.Module):
    """What timm's VisionTransformer does before its blocks, by its own methods."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = replace_modules(vit, blocks=None, norm=None, fc_norm=None, head=None, head_drop=None, attn_pool=None)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, l, d)."""
        vit: Any = self.vit
        tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pixels))))
        return tokens


class TimmPool(nn.Module):
    """What timm's VisionTransformer does after its final norm, but for the classifier, by its own methods."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        gone = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "blocks", "norm", "head")
        self.vit = replace_modules(vit, **dict.fromkeys(gone))
        self.vit.__dict__["_parameters"] = {}  # class token and positions are the stem's

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, l, d) -> (b, d)."""
        vit: Any = self.vit
        vector: Tensor = vit.forward_head(tokens, pre_logits=True)
        return vector


def _chained(encoder: nn.Module, chain: Chain) -> EncoderParts:
    stem, units, before = (
        _named(encoder, chain.stem),
        _units(_named(encoder, chain.blocks)),
        _named(encoder, chain.pool),
    )
    finish = "all" if chain.finish is None else strip_classifier(encoder).get_submodule(chain.finish)
    return EncoderParts(
        nn.Sequential(*stem), group_modules(units), Pool(finish, nn.Sequential(*before) if before else None)
    )


def _torchvision_vit(vit: nn.Module) -> EncoderParts:
    layers = _units([vit.get_submodule("encoder.layers")])
    return EncoderParts(PatchStem(vit), layers, Pool("first", vit.get_submodule("encoder.ln")), halves=True)


def _timm_vit(vit: nn.Module) -> EncoderParts:
    blocks = _units([vit.get_submodule("blocks")])
    return EncoderParts(TimmStem(vit), blocks, Pool(TimmPool(vit), vit.get_submodule("norm")), halves=True)


def _has(module: nn.Module, *names: str) -> bool:
    return set(names) <= module._modules.keys()


def _named(module: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    return [module.get_submodule(name) for name in names]


def _units(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules one by one, with lists and plain sequences opened."""
    units = []
    for module in modules:
        inner = isinstance(module, nn.ModuleList) or type(module) is nn.Sequential
        units += _units(module.children()) if inner else [module]
    return units
