"""Names and order of the methods, the same in each table and figure."""

from __future__ import annotations

from clip_fewshot.plots import text

# Left to right in every table and legend: from what costs nothing to what costs most.
APPROACH_ORDER = ("text-prior", "mlp-arcface", "mlp", "contrastive-arcface", "contrastive")


BASELINE_TITLES = {"raw_pixels": "raw pixels", "zero_shot": "zero-shot", "linear_probe": "frozen probe"}


CLOSED_FORMS = ("zero_shot", "text-prior", "linear_probe")  # nothing is trained in them; names as results have them


METHODS = (*BASELINE_TITLES, *APPROACH_ORDER)


def order_methods(names: list[str] | set[str]) -> list[str]:
    """Names of methods in the house's order, unknown ones after them by name."""
    known = [name for name in METHODS if name in names]
    return known + sorted(set(names) - set(known))


def display_name(key: str) -> str:
    """A method's name in prose."""
    return BASELINE_TITLES.get(key, text.clean(key))
