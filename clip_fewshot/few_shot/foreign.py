"""Approaches with parts from outside the library: what a file keeps of them, and what a file may name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clip_fewshot.few_shot.approach import OWN, Approach
from clip_fewshot.heads import HEADS
from clip_fewshot.losses import LOSSES
from clip_fewshot.probes import PROBES
from clip_fewshot.runtime.parts import ForeignPart, check_same_code, find_part, find_trusted_part
from clip_fewshot.tuning import TUNINGS


def list_foreign_parts(approach: Approach) -> list[ForeignPart]:
    """The parts from outside the library, as files keep them, whether the approach holds them or names them."""
    parts = (
        ("heads", approach.head, HEADS),
        ("losses", approach.loss, LOSSES),
        ("tuning", approach.tuning, TUNINGS),
        ("probes", approach.probe, PROBES),
    )
    return [
        ForeignPart.from_part(kind, approach.name, find_part(kind, part, {}) if isinstance(part, str) else part)
        for kind, part, members in parts
        if part is not None and part not in (*members, *members.values())
    ]


def find_trusted_approach(name: str, parts: Iterable[ForeignPart], trusted: Mapping[str, Any], where: str) -> Approach:
    """The approach that a file means by ``name``; a foreign one was passed by the caller and has the same code.

    Args:
        parts: what the file keeps of its foreign parts.
        trusted: approaches by name.
    """
    approach: Approach = find_trusted_part("approaches", name, OWN, trusted, where)
    check_same_code(parts, list_foreign_parts(approach), where)
    return approach
