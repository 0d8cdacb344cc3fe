"""Which approaches need texts, and what is left of them where the backbone reads none."""

from __future__ import annotations

from collections.abc import Sequence

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.foreign import refuse_texts
from clip_fewshot.few_shot.approach import BASELINES, Approach
from clip_fewshot.heads import HEADS
from clip_fewshot.probes import find_probe
from clip_fewshot.probes.base import Probe
from clip_fewshot.runtime.parts import find_part


def needs_texts(approach: Approach, probe: str | type[Probe] | None = None) -> bool:
    """Whether there is nothing to fit without texts: captions, or a probe or a head that is made of class names.

    Other heads begin from texts where there are some, and from the pictures alone where there are none.
    """
    if approach.towers == "none":
        return bool(getattr(find_probe(probe or approach.probe)[1], "reads_texts", False))
    make = find_part("heads", approach.head, HEADS) if isinstance(approach.head, str) else approach.head
    return approach.towers == "both" or bool(getattr(make, "reads_texts", False))


def check_texts(backbone: Backbone, approach: Approach, probe: str | type[Probe] | None = None) -> None:
    """Refuse an approach that needs texts on a backbone that reads none."""
    if needs_texts(approach, probe) and not backbone.reads_texts:
        raise refuse_texts(backbone.name)


def list_baselines(backbone: Backbone) -> tuple[Approach, ...]:
    """The baselines that this backbone can be asked for."""
    return tuple(one for one in BASELINES if backbone.reads_texts or not needs_texts(one))


def keep_readable(approaches: Sequence[Approach], backbone: Backbone) -> tuple[tuple[Approach, ...], tuple[str, ...]]:
    """Those that the backbone can be asked for, and a sentence about what is left out, the baselines among it.

    Raises:
        UsageError: none can.
    """
    if backbone.reads_texts:
        return tuple(approaches), ()
    kept = tuple(approach for approach in approaches if not needs_texts(approach))
    if not kept:
        raise refuse_texts(backbone.name)
    every = (*BASELINES, *(approach for approach in approaches if approach not in BASELINES))
    left = [approach.name for approach in every if needs_texts(approach)]
    return kept, (f"left out: {', '.join(left)} (they need texts, and {backbone.name} reads pictures alone)",)
