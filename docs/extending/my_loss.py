"""A loss: focal loss, which counts what is right already for less.

Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017, equation 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot import Approach, Range


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, c) logits and (n,) labels -> a scalar, in float32 or better."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    surprise = F.cross_entropy(exact, labels, reduction="none")
    return ((1 - (-surprise).exp()) ** 2 * surprise).mean()


MLP_FOCAL = Approach(
    "mlp-focal",
    head="mlp",
    loss=focal,
    space={"unfreeze": Range(0, None), "head_lr": Range(1e-4, 1e-2, log=True)},
    centre={"unfreeze": 1, "backbone_lr": 1e-4, "head_lr": 1e-3},
)
