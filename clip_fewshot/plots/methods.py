"""Names and order of the methods, the same in each table and figure."""

from __future__ import annotations

from clip_fewshot.plots import text

# Left to right in every table and legend: from what costs nothing to what costs most.
APPROACH_ORDER = ("mlp-arcface", "mlp", "contrastive-arcface", "contrastive")


BASELINES = {"raw_pixels": "raw pixels", "zero_shot": "zero-shot", "linear_probe": "frozen probe"}


METHODS = (*BASELINES, *APPROACH_ORDER)


def order_methods(names: list[str] | set[str]) -> list[str]:
    """Names of methods in the house's order, unknown ones after them by name."""
    known = [name for name in METHODS if name in names]
    return known + sorted(set(names) - set(known))


def display_name(key: str) -> str:
    """A method's name in prose."""
    return BASELINES.get(key, text.clean(key))
