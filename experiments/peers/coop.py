"""CoOp: trained context vectors before the name of each class, in front of the frozen text tower.

Kaiyang Zhou, Jingkang Yang, Chen Change Loy, Ziwei Liu, "Learning to Prompt for Vision-Language Models", 2022, eq. 2
and 3: one context for all classes, the name at the end.

It is a function, for no socket carries it. A probe is given the texts of the classes as vectors, a head neither the
backbone nor the names, and what two towers train together ends in a probe on pictures: nothing may classify by a text
tower that it trains. What it learns is texts, which any probe that reads texts takes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.text import TextTransformer
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.templates import fill_template
from clip_fewshot.errors import UsageError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.heads import ZeroShotHead
from clip_fewshot.runtime.rng import generator
from experiments.peers.peer import CLIP_SCALE
from experiments.peers.training import MOMENTUM, WEIGHT_DECAY, count_epochs, train

N_CONTEXT, DEVIATION = 16, 0.02  # vectors, and the standard deviation of their first values
RATE, BATCH = 2e-3, 32
EPOCHS = {1: 50, 2: 100, 8: 200}  # from so many shots on


class Prompts:
    """The texts "[context] NAME." of c classes, as features of a frozen text tower, by the context.

    Args:
        backbone: with CLIP's text transformer.
        n_context: vectors of the context; their places are held by the word "x", one token.
    """

    def __init__(self, backbone: Backbone, names: Sequence[str], n_context: int = N_CONTEXT) -> None:
        if not isinstance(backbone.text, TextTransformer):
            got, fix = type(backbone.text).__name__, "choose one of OpenAI's models, or mini"
            raise UsageError(expected="CLIP's text transformer", got=got, fix=fix, where="CoOp")
        self.tower = copy.deepcopy(backbone.text).requires_grad_(False).eval()
        held = " ".join(["x"] * n_context)
        tokens = backbone.trim(backbone.tokenize([fill_template(held + " {}.", name) for name in names]))
        self.state = self.tower.embed(tokens.to(backbone.device))
        self.places = self.tower.positional_embedding[1 : 1 + n_context]

    def encode(self, context: Tensor) -> Tensor:
        """(m, token features) context -> (c, d) unit texts."""
        tokens = self.state.tokens
        ours = (context + self.places).expand(len(tokens), -1, -1)
        tokens = torch.cat([tokens[:, :1], ours, tokens[:, 1 + len(context) :]], dim=1)
        return F.normalize(self.tower.finish(self.state._replace(tokens=tokens), self.tower.n_blocks).float(), dim=-1)


def learn_contexts(backbone: Backbone, support: ImageDataset, epochs: int | None = None, seed: int = 0) -> ZeroShotHead:
    """Zero-shot with texts whose context was trained on labelled pictures, as they are: without augmented views.

    Args:
        backbone: frozen; its scale is that of the logits.
        epochs: passes over the pictures. None, as published: 50 at one shot, 100 below 8, 200 from there on.

    Returns:
        A head on features of the backbone; ``weight`` holds the (c, d) learned texts.
    """
    prompts = Prompts(backbone, support.label_space.names)
    labels = torch.as_tensor(support.required_labels(), device=backbone.device)
    unit = F.normalize(torch.as_tensor(encode_images(backbone, support).features, device=backbone.device), dim=-1)
    scale = backbone.logit_scale.detach().exp()
    first = generator(seed, "CoOp").normal(0.0, DEVIATION, size=prompts.places.shape)
    context = torch.tensor(first, dtype=torch.float32, device=backbone.device, requires_grad=True)

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(scale * unit[rows] @ prompts.encode(context).T, labels[rows])

    steps = count_epochs(labels, EPOCHS) if epochs is None else epochs
    optimizer = torch.optim.SGD(
        [context], lr=RATE * float(CLIP_SCALE / scale) ** 2, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    train(loss, optimizer, schedule, len(unit), epochs=steps, batch=BATCH, seed=seed)
    with torch.no_grad():
        return ZeroShotHead(prompts.encode(context), scale)
