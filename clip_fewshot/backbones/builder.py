"""Models that the user's own code builds: "python:MODULE:FUNCTION"."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torch import nn

from clip_fewshot.errors import ClipFewShotError, UsageError

PREFIX = "python:"


def build(name: str) -> nn.Module:
    """What the function that ``name`` leads to returns, called without arguments.

    The module is imported as ``import MODULE`` would: it is installed, on ``PYTHONPATH``, or in the folder where
    ``python -m`` was started. Its code runs, also where a saved model carries such a name: a file cannot bring code
    along, but what it names among the code that is here is called.

    Raises:
        UsageError: another form of name, no such module or function, an error in the user's code (the cause of this
            one), or something else than a module of torch.
    """
    module, _, function = name.removeprefix(PREFIX).partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(
            expected=f"{PREFIX}MODULE:FUNCTION",
            got=repr(name),
            fix=f"write it as {PREFIX}my_towers:build",
            where="model",
        )
    found = getattr(_imported(module, name), function, None)
    if not callable(found):
        got = "none of that name" if found is None else f"a {type(found).__name__}"
        raise UsageError(expected=f"a function {function} in {module}", got=got, fix="check the spelling", where=name)
    model = _called(found, name)
    if not isinstance(model, nn.Module):
        fix = "return a PairBackbone, a Backbone, or a model of clip or open_clip"
        raise UsageError(expected=f"a model from {function}()", got=f"a {type(model).__name__}", fix=fix, where=name)
    return model


def _imported(module: str, name: str) -> object:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # one that the user's module wants
            raise _failed(name, "an import that succeeds", error) from error
        fix = "start where its file is, or put that folder on PYTHONPATH"
        raise UsageError(expected=f"a module {module}", got="none that Python finds", fix=fix, where=name) from error
    except Exception as error:  # whatever the user's code meets
        raise _failed(name, "an import that succeeds", error) from error


def _called(function: Callable[[], object], name: str) -> object:
    try:
        return function()
    except ClipFewShotError:
        raise
    except Exception as error:  # as above
        raise _failed(name, "a call without arguments that returns a model", error) from error


def _failed(name: str, expected: str, error: Exception) -> UsageError:
    return UsageError(expected=expected, got=f"{type(error).__name__}: {error}", fix="correct that code", where=name)
