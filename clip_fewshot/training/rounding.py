"""Half-precision storage that loses nothing on average: stochastic rounding to bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

LOW_BITS = 16  # of a float32 that a bfloat16 has no room for


def stochastic_bfloat16(values: Tensor, generator: torch.Generator) -> Tensor:
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
