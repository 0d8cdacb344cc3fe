"""Visual prompts: trained tokens that stand beside an image's own in front of a frozen transformer's blocks.

Menglin Jia, Luming Tang, Bor-Chun Chen, Claire Cardie, Serge Belongie, Bharath Hariharan, Ser-Nam Lim, "Visual Prompt
Tuning", 2022, section 3.2, VPT-Deep (eq. 7; eq. 4 to 6 are VPT-Shallow, which hands the outputs of one block's prompts
to the next). Each block gets prompts of its own and what it makes of them is dropped. So between two blocks a prompted
tower holds what the plain one holds, and every cut, stored prefix and head of the plain one fits it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import CutState, OneRow, Suffix
from clip_fewshot.backbones.transformer import Block
from clip_fewshot.backbones.vit import VisionTransformer
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.artifacts import open_artifact, save_artifact

PROMPTS_KIND = "visual prompts"
PROMPTS_WEIGHTS = "prompts.safetensors"
CLASS_TOKEN = "class_embedding"


class PromptedBlock(OneRow):
    """A block that sees prompts behind the class token: tokens (b, l, d) -> (b, l, d), those of the prompts dropped.

    Args:
        block: the frozen block, not copied.
        prompts: (p, d).
    """

    def __init__(self, block: Block, prompts: nn.Parameter) -> None:
        super().__init__()
        self.block, self.prompts = block, prompts

    def forward(self, x: Tensor) -> Tensor:
        """(b, l, d) -> (b, l, d): the prompts stand behind the class token and are dropped again."""
        out = self.block(_behind_first(x, self.prompts))
        return torch.cat([out[:, :1], out[:, 1 + len(self.prompts) :]], dim=1)

    def normalise(self, state: CutState) -> CutState:
        """The state of the block inside; the prompts join later."""
        return self.block.normalise(state)

    def forward_row(self, state: CutState) -> Tensor:
        """One row of the output for each input, with the prompts among the tokens."""
        first = torch.zeros(1, dtype=torch.int64, device=self.prompts.device)
        prompts = self.block.normalise(CutState(self.prompts[None], first)).tokens[0] if len(self.prompts) else None
        return self.block.forward_row(
            state if prompts is None else state._replace(tokens=_behind_first(state.tokens, prompts))
        )


def _behind_first(tokens: Tensor, prompts: Tensor) -> Tensor:
    """(b, l, d) and (p, d) -> (b, 1 + p + l - 1, d)."""
    inserted = prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :1], inserted, tokens[:, 1:]], dim=1)


class PromptedTransformer(VisionTransformer):
    """A vision transformer with prompts before some of its blocks; only those and the class token take gradients.

    The parts of ``base`` are taken over, not copied, under the names they have there: the state dict is OpenAI's and
    one entry ``prompts.BLOCK`` (p, d) for each prompted block.

    The class token trains where the first block has prompts. Otherwise it belongs to the part in front of them,
    which then gives every image the same states each time, and may run once per image.

    Args:
        base: the pretrained tower.
        n_prompts: p of each block, 0 or more.
        blocks: numbers of the blocks that get prompts, counted from 0, the block next to the pixels.

    Attributes:
        foundation: digest of the plain backbone.
    """

    foundation: str = ""

    def __init__(self, base: VisionTransformer, n_prompts: int, blocks: Sequence[int]) -> None:
        nn.Module.__init__(self)  # the parent's would build the parts again
        self.out_features, self.token_features = base.out_features, base.token_features
        for name, part in [*base.named_parameters(recurse=False), *base.named_children()]:
            setattr(self, name, part)
        self.requires_grad_(False)
        size = self.conv1.weight[0].numel() + self.token_features
        bound = math.sqrt(6 / size)  # Xavier's for the patch embedding, as in the authors' code
        first = {i: torch.empty(n_prompts, self.token_features).uniform_(-bound, bound) for i in blocks}
        self.prompts = nn.ParameterDict({str(i): nn.Parameter(t.to(self.conv1.weight)) for i, t in first.items()})
        # In a plain dict, where torch sees no second name of their parameters; made once, because gradient
        # checkpointing and hooks hold on to the blocks they were given.
        plain = [block for block in base.transformer.blocks if isinstance(block, Block)]
        self._prompted = {i: PromptedBlock(plain[i], self.prompts[str(i)]) for i in blocks}
        if 0 in blocks:
            self.class_embedding.requires_grad_(True)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, those with prompts wrapped."""
        return [self._prompted.get(i, block) for i, block in enumerate(self.transformer.blocks)]

    def cut(self, state: CutState, n: int) -> CutState:
        """As of any tower; refused where prompts would be left in front of the cut, whose training it would freeze."""
        self._check_cut(n)
        return super().cut(state, n)

    def last_parameters(self, n: int) -> list[str]:
        """The prompts of the last n blocks: what :meth:`suffix` trains."""
        return [name for name in super().last_parameters(n) if name.startswith("prompts.")]

    def suffix(self, n: int) -> Suffix:
        """Deep copy of the last n blocks, their prompts and the tail, of which the prompts alone train.

        Raises:
            UsageError: there are prompts in front of it, and n > 0.
        """
        self._check_cut(n)
        suffix = super().suffix(n).requires_grad_(False)
        for block in suffix.blocks:
            if isinstance(block, PromptedBlock):
                block.prompts.requires_grad_(n > 0)
        return suffix

    def list_trained(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of all that trains: the prompts, and the class token where the first block has prompts."""
        token = {CLASS_TOKEN: self.class_embedding} if "0" in self.prompts else {}
        return token | {f"prompts.{i}": p for i, p in self.prompts.items()}

    def _check_cut(self, n: int) -> None:
        first = min((int(i) for i in self.prompts), default=self.n_blocks)
        if 0 < n < self.n_blocks - first:
            raise UsageError(
                expected=f"prompts in the last {n} blocks only, the others being run once per image and frozen",
                got=f"prompts from block {first + 1} of {self.n_blocks} on",
                fix=f"train the last {self.n_blocks - first}, give prompts to the last {n} (depth={n}), or use "
                "train_contrastive, which runs every block at each step",
                where="visual prompts",
            )


def prompted(
    backbone: Backbone, n_prompts: int = 8, depth: int | None = None, *, first: bool = False, seed: int = 0
) -> Backbone:
    """A copy of ``backbone`` with deep visual prompts, in which nothing else trains but they and the class token.

    Without prompts (``n_prompts=0``) its features are those of ``backbone`` bit for bit. It goes wherever a backbone
    goes: ``encode_image``, ``train_contrastive`` (any depth), ``FewShotClassifier`` with ``unfreeze >= depth``, which
    keeps the stored states of the blocks in front of the prompts.

    Args:
        backbone: one with a vision transformer; left as it is.
        n_prompts: prompts of each prompted block, >= 0.
        depth: number of prompted blocks, the last ones, 1 to all; None: all, and the class token trains too.
        first: count the blocks from the pixels on instead (the paper, section 4.3, "prompt depth", finds early
            ones worth more; states can then not be stored).
        seed: of the prompts' first values.

    Raises:
        UsageError: another kind of image tower, or numbers outside their range.
    """
    result = copy.deepcopy(backbone).requires_grad_(False)
    base = result.visual
    if not isinstance(base, VisionTransformer) or isinstance(base, PromptedTransformer):
        fix = "choose a ViT without prompts"
        got = type(base).__name__
        raise UsageError(expected="an image tower with a class token, OpenAI's ViT", got=got, fix=fix, where="prompted")
    depth = base.n_blocks if depth is None else depth
    if n_prompts < 0 or not 1 <= depth <= base.n_blocks:
        expected = f"n_prompts >= 0 and depth in 1..{base.n_blocks}"
        raise UsageError(expected=expected, got=f"{n_prompts} and {depth}", fix="change them", where="prompted")
    blocks = range(depth) if first else range(base.n_blocks - depth, base.n_blocks)
    with rng.seed_torch(seed, "visual prompts"):
        tower = PromptedTransformer(base, n_prompts, blocks).train(base.training)
    tower.foundation = backbone.digest
    result.visual, result.name = tower, f"{backbone.name} with {n_prompts} prompts in {depth} blocks"
    return result


def save_prompts(backbone: Backbone, folder: str | Path, overwrite: bool = False) -> None:
    """Write the prompts and the class token alone; older ones there are replaced, other files by ``overwrite``."""
    tower = _tower(backbone)
    state = {name: parameter.detach().cpu().contiguous() for name, parameter in tower.list_trained().items()}
    meta = {"foundation": tower.foundation}
    save_artifact(Path(folder), PROMPTS_KIND, {PROMPTS_WEIGHTS: safetensors.torch.save(state)}, meta, overwrite)


def load_prompts(folder: str | Path, backbone: Backbone) -> Backbone:
    """A copy of ``backbone`` with the prompts that :func:`save_prompts` wrote.

    Args:
        backbone: the plain one that the prompts were trained on.

    Raises:
        ArtifactError: damaged files, or prompts of another backbone.
    """
    with open_artifact(Path(folder), PROMPTS_KIND) as (meta, files):
        return _with_prompts(meta, files, folder, backbone)


def _with_prompts(meta: dict[str, Any], files: dict[str, bytes], folder: str | Path, backbone: Backbone) -> Backbone:
    if meta["foundation"] != backbone.digest:
        expected, got = f"weights {meta['foundation'][:12]}...", f"{backbone.name} with {backbone.digest[:12]}..."
        fix = "pass the backbone that the prompts were trained on"
        raise ArtifactError(expected=expected, got=got, fix=fix, where=str(folder))
    state = safetensors.torch.load(files[PROMPTS_WEIGHTS])
    prompts = [tensor for name, tensor in state.items() if name != CLASS_TOKEN]
    first = CLASS_TOKEN in state
    result = prompted(backbone, len(prompts[0]), len(prompts), first=first)
    with torch.no_grad():
        for name, parameter in _tower(result).list_trained().items():
            parameter.copy_(state[name])
    return result


def _tower(backbone: Backbone) -> PromptedTransformer:
    if not isinstance(backbone.visual, PromptedTransformer):
        fix = "make one with prompted()"
        raise UsageError(expected="a backbone with visual prompts", got=backbone.name, fix=fix, where="visual prompts")
    return backbone.visual
