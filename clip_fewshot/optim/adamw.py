"""AdamW in one pass over the weights, its groups, and the learning-rate schedule; in bfloat16 where memory is short."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.rng import derive_seed

BETAS, EPS = (0.9, 0.98), 1e-6  # Radford et al., 2021, table 18 (ViT)


UPDATE_PIECE = 1 << 22  # values that are float32 at a time where they are stored in bfloat16


class ParameterState(NamedTuple):
    """One parameter, its gradient, and what AdamW remembers of it."""

    parameter: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    @property
    def lean(self) -> bool:
        """Whether some of it is stored in bfloat16."""
        return torch.bfloat16 in (self.parameter.dtype, self.first.dtype)


@dataclass
class ParameterGroup:
    """Parameters with one peak learning rate and one weight decay, and what AdamW remembers of them."""

    parameters: Sequence[Tensor]
    peak_lr: float
    weight_decay: float
    steps: list[Tensor] = field(init=False)
    first: list[Tensor] = field(init=False)
    second: list[Tensor] = field(init=False)

    def forget(self, dtype: torch.dtype) -> None:
        """Start with no step taken and moments of 0, stored in bfloat16 or in the parameter's own precision."""
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]
        kinds = [dtype if dtype == torch.bfloat16 else torch.promote_types(p.dtype, dtype) for p in self.parameters]
        self.first = [torch.zeros_like(p, dtype=kind) for p, kind in zip(self.parameters, kinds, strict=True)]
        self.second = [torch.zeros_like(moment) for moment in self.first]

    def list_slots(self) -> list[ParameterState]:
        """The parameters that have a gradient."""
        slots = zip(self.parameters, self.first, self.second, self.steps, strict=True)
        return [ParameterState(p, p.grad, *memory) for p, *memory in slots if p.grad is not None]


def group_parameters(modules: Iterable[tuple[nn.Module, float]], weight_decay: float) -> list[ParameterGroup]:
    """AdamW groups from (module, peak learning rate): weight decay on matrices only.

    Norms, biases, class embeddings and scales (fewer than two dimensions) get none: decay would pull them away
    from values that carry no redundancy (Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision", 2021, section 2.5: decay on "all weights that are not gains or biases").
    """
    return [
        group
        for module, lr in modules
        for group in _decayed([p for p in module.parameters() if p.requires_grad], lr, weight_decay)
    ]


def group_named_parameters(
    module: nn.Module, peak_lr: float, weight_decay: float, rates: Mapping[str, float]
) -> list[ParameterGroup]:
    """:func:`group_parameters` of one module whose parameters have different peak rates.

    Args:
        rates: beginning of a parameter's dotted name -> its rate; the longest that fits decides, ``peak_lr`` where none
            does. For example {"visual": 1e-5, "visual.proj": 1e-3}.

    Raises:
        UsageError: a beginning that no trained parameter has.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    chosen: dict[str, list[Tensor]] = {start: [] for start in ("", *rates)}
    for name, parameter in trained.items():
        fitting = [start for start in rates if name == start or name.startswith(f"{start}.")]
        chosen[max(fitting, key=len, default="")].append(parameter)
    empty = [start for start in rates if not chosen[start]]
    if empty:
        some = ", ".join(sorted({name.split(".")[0] for name in trained}))
        fix = "check the spelling"
        raise UsageError(expected=f"names of trained parameters ({some}, ...)", got=f"{empty}", fix=fix, where="rates")
    return [
        group
        for start, parameters in chosen.items()
        for group in _decayed(parameters, rates.get(start, peak_lr), weight_decay)
    ]


def _decayed(parameters: Sequence[Tensor], lr: float, weight_decay: float) -> Iterator[ParameterGroup]:
    for members, decay in (
        ([p for p in parameters if p.ndim >= 2], weight_decay),
        ([p for p in parameters if p.ndim < 2], 0.0),
    ):
        if members:
            yield ParameterGroup(members, lr, decay)


class Optimizer:
    """What all optimisers of groups share: clipping, and the state in a checkpoint.

    Args:
        groups: from :func:`group_parameters` or :func:`group_named_parameters`.
        clip_norm: largest norm of the whole gradient, or None.
        state_dtype: of what is remembered of each parameter.
    """

    def __init__(self, groups: Sequence[ParameterGroup], clip_norm: float | None, state_dtype: torch.dtype) -> None:
        self.groups, self.clip_norm, self.taken = groups, clip_norm, 0
        for group in groups:
            group.forget(state_dtype)

    def step(self, factor: float, norm: Tensor | None = None) -> None:
        """One update at ``factor`` times each group's peak learning rate; parameters without gradient stay.

        Args:
            norm: :meth:`gradient_norm`, where the caller has it already.
        """
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    def gradient_norm(self) -> Tensor:
        """Norm of the whole gradient, scalar float32; 0 where there is none."""
        gradients = [p.grad for group in self.groups for p in group.parameters if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float32)))
        return norm

    def _divisor(self, norm: Tensor | None) -> Tensor | None:
        """What the gradient is divided by so that its norm is at most ``clip_norm``."""
        if self.clip_norm is None:
            return None
        norm = self.gradient_norm() if norm is None else norm
        if norm.device.type == "cpu" and float(norm) <= self.clip_norm:  # elsewhere asking would wait for the device
            return None
        return (norm / self.clip_norm).clamp(min=1.0)

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on besides weights and gradients; not copied, but for the count ``taken``."""
        found = {"taken": torch.tensor(self.taken)}
        for g, group in enumerate(self.groups):
            for kind, values in (("steps", group.steps), ("first", group.first), ("second", group.second)):
                found |= {f"{kind}.{g}.{i}": value for i, value in enumerate(values)}
        return found


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, alg. 2).

    The step of a folded last block is as short as the optimiser's pass over its weights, so this is one pass: torch's
    fused kernel, a quarter of the time of the loop over tensors, which also divides the gradient when its norm is
    clipped. We rejected ``torch.optim.AdamW(fused=True)``, which has the same kernel, because making one imports
    torch's compiler: two seconds in every process.

    Moments and weights stored in bfloat16 become float32 a piece at a time, take the same step, and are rounded
    stochastically (Radford et al., 2021, section 2.5: half-precision Adam statistics and stochastically rounded text
    encoder weights). The draws of a step depend on ``seed`` and the number of the step alone.

    Args:
        groups: from :func:`group_parameters` or :func:`group_named_parameters`.
        clip_norm: largest norm of the whole gradient, or None.
        betas: decay of the first and the second moment per step, in [0, 1).
        eps: added to the root of the second moment.
        state_dtype: of the moments: float32, or bfloat16 at half the memory.
        seed: of the rounding.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        clip_norm: float | None = None,
        *,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        state_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, clip_norm, state_dtype)
        self.betas, self.eps, self.seed = betas, eps, seed

    @torch.no_grad()
    def step(self, factor: float, norm: Tensor | None = None) -> None:
        """One update of every parameter that has a gradient; ``norm``: of the whole gradient, if known."""
        divisor = self._divisor(norm)
        for g, group in enumerate(self.groups):
            slots = group.list_slots()
            plain = [slot for slot in slots if not slot.lean]
            if slots:
                torch._foreach_add_([slot.steps for slot in slots], 1)
            if plain:
                self._update(group, plain, factor, divisor)
            for i, slot in enumerate(slots):
                if slot.lean:
                    rounding = torch.Generator(slot.parameter.device)
                    rounding.manual_seed(derive_seed(self.seed, "rounding", self.taken, g, i))
                    self._update_in_pieces(group, slot, factor, divisor, rounding)
        self.taken += 1

    def _update(
        self, group: ParameterGroup, slots: Sequence[ParameterState], factor: float, divisor: Tensor | None
    ) -> None:
        parameters, gradients, first, second, steps = zip(*slots, strict=True)
        torch._fused_adamw_(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            lr=group.peak_lr * factor,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=group.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )

    def _update_in_pieces(
        self,
        group: ParameterGroup,
        slot: ParameterState,
        factor: float,
        divisor: Tensor | None,
        rounding: torch.Generator,
    ) -> None:
        stored = [t.reshape(1) if t.ndim == 0 else t for t in slot[:4]]
        rows = max(1, UPDATE_PIECE // max(1, stored[0][0].numel()))
        for pieces in zip(*(torch.split(t, rows) for t in stored), strict=True):
            exact = [piece.float() for piece in pieces]  # the piece itself where it is float32
            self._update(group, [ParameterState(exact[0], exact[1], exact[2], exact[3], slot.steps)], factor, divisor)
            for piece, value in zip(pieces, exact, strict=True):
                if piece is not pieces[1] and piece.dtype == torch.bfloat16:
                    piece.copy_(round_to_bfloat16(value, rounding))


LOW_BITS = 16  # of a float32 that a bfloat16 has no room for


def round_to_bfloat16(values: Tensor, generator: torch.Generator) -> Tensor:
    """Finite float32 values -> bfloat16, each to one of its two neighbours, so that the mean over draws is the value.

    A value a share s of the way from the neighbour nearer to 0 to the other goes to the other with probability s (to
    2^-16). Rounding to nearest loses every update smaller than half a step, 2^-9 of the value: with beta2 = 0.999 the
    second moment of Adam would never fall again. A uniform number is added to the bits that are dropped, which is the
    same thing, because the bits of a float's magnitude grow with it.

    Args:
        generator: on the device of the values.

    Returns:
        of the same shape; the error of one value is under 2^-7 of it.
    """
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << LOW_BITS, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    kept = (bits + noise) & -(1 << LOW_BITS)
    return kept.view(torch.float32).to(torch.bfloat16)
