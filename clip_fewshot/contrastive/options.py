"""How a contrastive training goes, and what the paper chose for each of its models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from clip_fewshot.backbones.architectures import ARCHITECTURES, CLIPConfig
from clip_fewshot.errors import UsageError
from clip_fewshot.optim.sgd import MOMENTUM

Precision = Literal["float32", "bfloat16"]

# Radford et al., 2021, tables 19 and 20: peak learning rates, for batches of 32,768 pairs.
USUAL_RATE = 5e-4
PAPER_RATES = {
    "RN50": 5e-4,
    "RN101": 5e-4,
    "RN50x4": 5e-4,
    "RN50x16": 4e-4,
    "RN50x64": 3.6e-4,
    "ViT-B/32": 5e-4,
    "ViT-B/16": 5e-4,
    "ViT-L/14": 4e-4,
    "ViT-L/14@336px": 2e-5,
}
PAPER_EPOCHS = {"ViT-L/14@336px": 1}  # one epoch at the higher resolution, from the trained ViT-L/14 (section 2.5)
RESNET_ADAM, VIT_ADAM = ((0.9, 0.999), 1e-8), ((0.9, 0.98), 1e-6)  # table 18: betas, eps
RESTFUL = frozenset({"chunk", "checkpoint_gradients", "save_every"})  # may differ when a training goes on


@dataclass(frozen=True)
class ContrastiveOptions:
    """How to train. The defaults are the paper's for a vision transformer (table 18).

    Args:
        steps: optimiser steps, >= 1; None: ``epochs`` passes over the source.
        epochs: passes, >= 1, where ``steps`` is None.
        learning_rate: peak of the schedule, > 0.
        rates: other peaks for some parameters: beginning of the dotted name -> rate, the longest that fits decides, as
            in {"visual": 1e-5, "text": 1e-6}.
        warmup_steps: steps over which the rate rises to its peak, before it falls as a cosine to 0; None: a twentieth.
        optimizer: AdamW, or "sgd": gradient descent with momentum, whose rates are a hundred times larger as a rule.
        momentum: of the latter, in [0, 1).
        weight_decay: on matrices (of AdamW decoupled), >= 0; never on norms, biases and the logit scale.
        betas, eps: of AdamW.
        clip_norm: largest norm of the gradient, > 0; None: any.
        averaging: decay per step of the mean of the weights that is kept in the end, in [0, 1); 0: the last weights.
        identity_targets: take equal captions for wrong ones, as the original does. That loss cannot fall below the mean
            of ln(copies) either, only unannounced.
        chunk: pairs in one pass with a graph; None: all. Memory falls with it, the gradient stays.
        checkpoint_gradients: keep the inputs of the towers' blocks alone and run them twice.
        state_dtype: of AdamW's moments: bfloat16 is stochastically rounded.
        text_weights: of the text tower's matrices: bfloat16 is stochastically rounded, has no float32 master, and needs
            bfloat16 activations.
        save_every: steps between checkpoints, >= 1; None: one at the end of each epoch.
        seed: of dropout and rounding; the model brings its weights, the source its order.

    Raises:
        UsageError: a value outside its range.
    """

    steps: int | None = None
    epochs: int | None = None
    learning_rate: float = 5e-4
    rates: Mapping[str, float] = field(default_factory=dict)
    warmup_steps: int | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = MOMENTUM
    weight_decay: float = 0.2
    betas: tuple[float, float] = VIT_ADAM[0]
    eps: float = VIT_ADAM[1]
    clip_norm: float | None = None
    averaging: float = 0.0
    identity_targets: bool = False
    chunk: int | None = None
    checkpoint_gradients: bool = False
    state_dtype: Precision = "float32"
    text_weights: Precision = "float32"
    save_every: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) is (self.epochs is None):
            got = f"steps {self.steps}, epochs {self.epochs}"
            raise UsageError(expected="either steps or epochs", got=got, fix="give one of them", where="steps")
        for name in ("steps", "epochs", "chunk", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(expected=f"{name} of 1 or more", got=str(value), fix=f"change {name}", where=name)
        for name in ("learning_rate", "clip_norm", "eps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(expected=f"{name} over 0", got=str(value), fix=f"change {name}", where=name)
        for name, low in (
            ("averaging", self.averaging),
            ("beta1", self.betas[0]),
            ("beta2", self.betas[1]),
            ("momentum", self.momentum),
        ):
            if not 0 <= low < 1:
                raise UsageError(expected=f"{name} in [0, 1)", got=str(low), fix=f"change {name}", where=name)
        for name in ("weight_decay", "warmup_steps"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                fix = f"change {name}"
                raise UsageError(expected=f"{name} of 0 or more", got=str(getattr(self, name)), fix=fix, where=name)

        if self.optimizer == "sgd" and "bfloat16" in (self.state_dtype, self.text_weights):
            got = f"state_dtype {self.state_dtype}, text_weights {self.text_weights}"
            expected = "float32 beside sgd"
            raise UsageError(expected=expected, got=got, fix="leave them out, or use adamw", where="optimizer")

    def total(self, per_epoch: int) -> int:
        """Optimiser steps in all, where an epoch has ``per_epoch``."""
        return self.steps if self.steps is not None else per_epoch * (self.epochs or 0)

    def warmup(self, total: int) -> float:
        """Share of the steps over which the rate rises."""
        return 0.05 if self.warmup_steps is None else self.warmup_steps / total

    def identity(self) -> dict[str, Any]:
        """What the weights depend on beyond rounding, as JSON; it must be equal where a training goes on."""
        found = {name: value for name, value in asdict(self).items() if name not in RESTFUL}
        return found | {"rates": dict(self.rates), "betas": list(self.betas)}


def paper_options(model: str | CLIPConfig, **changes: Any) -> ContrastiveOptions:
    """The numbers with which OpenAI trained its models (Radford et al., 2021, section 2.5, tables 18 to 20).

    32 epochs of batches of 32,768 pairs, weight decay 0.2, a warm-up of 2,000 steps; betas and eps of its kind, the
    learning rate of its own. The rates are for that batch: a small batch wants a smaller one, as a rule.

    Args:
        model: one of OpenAI's names; or another architecture, for which most models' rate of 5e-4 is taken.
        changes: fields of :class:`ContrastiveOptions` in place of the paper's.
    """
    name = {"ViT-L/14-336px": "ViT-L/14@336px"}.get(model, model) if isinstance(model, str) else ""
    if isinstance(model, str) and name not in PAPER_RATES:
        got = repr(model)
        raise UsageError(expected=f"one of {', '.join(PAPER_RATES)}", got=got, fix="check the spelling", where="model")
    config = ARCHITECTURES[name] if isinstance(model, str) else model
    betas, eps = VIT_ADAM if isinstance(config.vision_layers, int) else RESNET_ADAM
    paper: dict[str, Any] = {"learning_rate": PAPER_RATES.get(name, USUAL_RATE), "betas": betas, "eps": eps}
    paper["warmup_steps"] = 2000
    if not {"steps", "epochs"} & changes.keys():
        paper["epochs"] = PAPER_EPOCHS.get(name, 32)
    return ContrastiveOptions(**(paper | changes))
