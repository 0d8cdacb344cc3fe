"""Whether a training fits into memory; and if it does not, what would."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NamedTuple

import torch

from clip_fewshot.backbones.architectures import ARCHITECTURES
from clip_fewshot.backbones.checkpoint import sketch_backbone
from clip_fewshot.contrastive.memory_forecast import Forecast, Needs, measure_state
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.errors import ResourceError
from clip_fewshot.runtime.device import device_memory
from clip_fewshot.runtime.units import format_size


class Load(NamedTuple):
    """Pairs in a step of all processes, and how many processes there are; 0 pairs: the state alone."""

    batch: int
    processes: int = 1

    @property
    def pairs(self) -> int:
        """Of one process, the first, which has no fewer than another."""
        return -(-self.batch // self.processes)


def list_remedies(
    needs: Needs, options: ContrastiveOptions, load: Load, room: int, changeable: Collection[str]
) -> dict[str, Forecast]:
    """What brings the peak under ``room`` bytes: options as a user names them, and the forecast with them.

    Each alone that is enough; where none is, the first together that are; nothing where nothing helps.

    Args:
        changeable: options that the user has, out of checkpoint_gradients and state_dtype beside batch and chunk.
    """
    lean: dict[str, dict[str, Any]] = {
        "`checkpoint_gradients`": {"checkpoint_gradients": True},
        "`state_dtype`=bfloat16": {"state_dtype": "bfloat16"},
    }
    lean = {words: change for words, change in lean.items() if next(iter(change)) in changeable}
    alone = {words: needs.forecast(replace(options, **change), load.pairs) for words, change in lean.items()}
    found = _divided(needs, options, load, room) | {
        w: forecast for w, forecast in alone.items() if forecast.peak <= room
    }
    together, changes = "", dict[str, Any]()
    for words, change in lean.items() if not found else ():
        together, changes = f"{together}{words} ", changes | change
        found = found or _divided(needs, replace(options, **changes), load, room, together)
    return found


def _divided(needs: Needs, options: ContrastiveOptions, load: Load, room: int, beside: str = "") -> dict[str, Forecast]:
    """The largest power of two of pairs in a pass that fits; where none does, of pairs in a step."""
    most = min(load.pairs, options.chunk or load.pairs)
    sizes = [1 << power for power in reversed(range((most - 1).bit_length()))] if most else []
    chunks = ((f"`chunk`={n}", needs.forecast(replace(options, chunk=n), load.pairs)) for n in sizes)
    batches = ((f"`batch`={n * load.processes}", needs.forecast(options, n)) for n in sizes if n > 1)
    fitting = ((words, forecast) for words, forecast in chain(chunks, batches) if forecast.peak <= room)
    return {f"{beside}{words}": forecast for words, forecast in islice(fitting, 1)}


def check_memory(
    needs: Needs, options: ContrastiveOptions, load: Load, device: torch.device, changeable: Collection[str]
) -> Forecast:
    """The forecast of a training, if it fits into the memory of ``device``.

    Args:
        changeable: options that the user has beside batch and chunk, out of checkpoint_gradients, state_dtype, model.

    Raises:
        ResourceError: it does not; names what would.
    """
    forecast, room = needs.forecast(options, load.pairs), device_memory(device)
    if forecast.peak <= room:
        return forecast
    remedies = list_remedies(needs, options, load, room, changeable)
    fixes = [f"set {words} ({changed.total})" for words, changed in remedies.items()]
    if not fixes and "model" in changeable and (smaller := list_smaller(needs, options, room)):
        fixes = [f"take a smaller `model` ({', '.join(smaller)})"]
    fix = ", or ".join(fixes) or "train less of it, or use a machine with more"
    raise ResourceError(expected=f"memory for {forecast}", got=format_size(room), fix=fix, where="training")


def list_smaller(needs: Needs, options: ContrastiveOptions, room: int) -> list[str]:
    """Official architectures with fewer weights whose state fits into ``room`` bytes."""
    states = {name: measure_state(sketch_backbone(config)) for name, config in ARCHITECTURES.items()}
    return [
        name
        for name, state in states.items()
        if state.weights < needs.weights and state.forecast(options, 0).peak <= room
    ]
