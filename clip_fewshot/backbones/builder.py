"""Models that the user's own code builds: "python:MODULE:FUNCTION"."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from clip_fewshot.errors import ClipFewShotError, UsageError
from clip_fewshot.runtime.parts import find_part, user_code_error


def build(name: str) -> nn.Module:
    """What the function of that name ("python:MODULE:FUNCTION", or an entry point) returns, called without arguments.

    Raises:
        UsageError: another form of name, no such module or function, an error in the user's code (the cause of this
            one), or something else than a module of torch.
    """
    function: object = find_part("backbones", name, {})
    if not callable(function):
        got = f"a {type(function).__name__}"
        raise UsageError(expected="a function", got=got, fix="name a function that builds the model", where=name)
    model = _called(function, name)
    if not isinstance(model, nn.Module):
        fix = "return a PairBackbone, a Backbone, or a model of clip or open_clip"
        got = f"a {type(model).__name__}"
        raise UsageError(expected="a function that returns a model", got=got, fix=fix, where=name)
    return model


def _called(function: Callable[[], object], name: str) -> object:
    try:
        return function()
    except ClipFewShotError:
        raise
    except Exception as error:  # as above
        raise user_code_error(name, "a call without arguments that returns a model", error) from error
