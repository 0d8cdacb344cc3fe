"""What every contract is made of: a demand, and the error that names the one that is not met."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.parts import missing_members
from clip_fewshot.types import FloatArray, LabelArray


class ContractError(AssertionError):
    """A part does not do what the rest of the library relies on."""


def demand(holds: object, failure: str) -> None:
    """Raise :class:`ContractError` with the name of the failure unless ``holds``."""
    if not holds:
        raise ContractError(failure)


def demand_members(part: object, contract: type) -> None:
    """Every public method and class attribute of a protocol."""
    missing = missing_members(part, contract)
    demand(not missing, ", ".join(missing))


def refuses(call: Callable[[], object]) -> bool:
    """Whether ``call`` raises UsageError, which users are shown without a traceback."""
    try:
        call()
    except UsageError:
        return True
    return False


def run_checks(checks: Iterable[Callable[..., None]], part: Any, **options: Any) -> None:
    """Run all checks of a kind; one that meets another error than ContractError fails by it, with its traceback."""
    for check in checks:
        check(part, **options)


def global_state() -> Any:
    """The numbers of numpy's global generator, which no part may draw from."""
    state: Any = np.random.get_state()
    return np.array(state[1])


def same_bytes(one: FloatArray, other: FloatArray) -> bool:
    """Equal to the last bit, whatever the layout."""
    return one.shape == other.shape and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def clusters(classes: int, shots: int, width: int, seed: int = 0) -> tuple[FloatArray, LabelArray, FloatArray]:
    """Features as an encoder gives them: a large common mean, classes around it, and a class that is not known.

    Returns:
        (classes * shots, width) rows, their labels, class by class, and (shots, width) rows of the further class.
    """
    rng = np.random.default_rng(seed)
    centres = 0.5 * rng.normal(size=(classes + 1, width))
    labels = np.repeat(np.arange(classes + 1), shots)
    rows = 1 + centres[labels] + 0.2 * rng.normal(size=(len(labels), width))
    known = labels < classes
    return rows[known], labels[known], rows[~known]
