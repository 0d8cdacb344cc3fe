"""Members of an open folder by name: the folder's own, those of installed packages, and the user's own code.

A name that a person typed is looked up among the folder's members, then among the entry points of installed packages
(group ``clip_fewshot.heads``, ``clip_fewshot.probes``, ...), then, as ``python:MODULE:NAME``, imported. A name that
stands in a file (a saved model, a store, a run that is resumed) imports nothing: it is a member of the folder, or the
caller passes the part.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

from clip_fewshot.errors import ArtifactError, UsageError

PYTHON_PREFIX = "python:"
SINGULAR = {"approaches": "approach", "losses": "loss"}
T = TypeVar("T")


def find_part(kind: str, name: str, members: Mapping[str, T]) -> T:
    """The part that a person means by ``name``.

    Args:
        kind: folder that the part belongs to, such as "heads"; also the end of its group of entry points.
        name: a key of ``members``, the name of an entry point, or "python:MODULE:NAME".
        members: the folder's own.

    Raises:
        UsageError: no such part; or the user's code fails when it is imported.
    """
    if name in members:
        return members[name]
    if name.startswith(PYTHON_PREFIX):
        found: T = import_part(name)
        return found
    installed = {point.name: point for point in entry_points(group=f"clip_fewshot.{kind}")}
    if name in installed:
        loaded: T = installed[name].load()
        return loaded
    known = ", ".join([*members, *installed])
    fix = f"check the spelling, or write {PYTHON_PREFIX}MODULE:NAME for code of your own"
    raise UsageError(expected=f"one of {known}", got=repr(name), fix=fix, where=SINGULAR.get(kind, kind[:-1]))


def choose_part(kind: str, given: str | T, members: Mapping[str, T]) -> tuple[str, T]:
    """(name, part) of what a person gave: a name, as :func:`find_part` takes it, or the part itself.

    A part from outside the library goes by the name of its entry point, or else of its class or function: it stands
    under that in tables and in files.

    Raises:
        UsageError: no such part, or one without a name of its own.
    """
    part = find_part(kind, given, members) if isinstance(given, str) else given
    for name, member in members.items():
        if member is part:
            return name, part
    if isinstance(given, str) and not given.startswith(PYTHON_PREFIX):
        return given, part
    name = getattr(part, "__name__", "")
    if not name.isidentifier() or name in members:
        fix = "give a class, or a function made with def, under another name than the library's own"
        what = SINGULAR.get(kind, kind[:-1])
        raise UsageError(expected=f"a {what} with a name of its own", got=repr(name or part), fix=fix, where=what)
    return name, part


def check_contract(what: str, name: str, part: object, contract: type) -> None:
    """Refuse a part that lacks a method or class attribute of ``contract``, a protocol.

    Args:
        what: "detector", "probe", ..., for the message.
        name: of the part, for the message.

    Raises:
        UsageError: names what is missing.
    """
    missing = missing_members(part, contract)
    if missing:
        fix = f"see {contract.__module__}.{contract.__qualname__}; clip_fewshot.testing.check_{what} checks the rest"
        raise UsageError(expected=f"a {what}", got=f"{name}: {missing[0]}", fix=fix, where=what)


def missing_members(part: object, contract: type) -> list[str]:
    """What a protocol asks and ``part`` lacks: "method NAME is missing" or "attribute NAME is missing"."""
    own = vars(contract)
    methods = [k for k, v in own.items() if isinstance(v, FunctionType | classmethod) and not k.startswith("_")]
    attributes = [k for k, v in inspect.get_annotations(contract).items() if str(v).startswith("ClassVar")]
    absent = [f"method {name} is missing" for name in methods if not callable(getattr(part, name, None))]
    return absent + [f"attribute {name} is missing" for name in attributes if not hasattr(part, name)]


def find_trusted_part(kind: str, name: str, members: Mapping[str, T], trusted: Mapping[str, Any], where: str) -> T:
    """The part that a file means by ``name``. Nothing is imported: what is not a member was passed by the caller.

    Args:
        trusted: parts that the caller passed, by the name in the file.
        where: the file, for the message.

    Raises:
        ArtifactError: a foreign part that was not passed.
    """
    if name in members:
        return members[name]
    if name in trusted:
        part: T = trusted[name]
        return part
    fix = f"pass it: trusted={{{name!r}: ...}} in Python, --trust {name}=python:MODULE:NAME in a command"
    got = f"{name!r}, which a file must not import"
    raise ArtifactError(expected=f"one of this library's {kind} ({', '.join(members)})", got=got, fix=fix, where=where)


def import_part(name: str) -> Any:
    """The object that "python:MODULE:NAME" leads to.

    The module is imported as ``import MODULE`` would: it is installed, on ``PYTHONPATH``, or in the folder where
    Python was started.

    Raises:
        UsageError: another form of name, no such module or object, or an error in the user's code.
    """
    module, _, attribute = name.removeprefix(PYTHON_PREFIX).partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        form = f"{PYTHON_PREFIX}MODULE:NAME"
        raise UsageError(expected=form, got=repr(name), fix=f"write it as {PYTHON_PREFIX}my_module:MyPart", where=name)
    imported = _import_module(module, name)
    if not hasattr(imported, attribute):
        raise UsageError(expected=f"{attribute} in {module}", got="none", fix="check the spelling", where=name)
    return getattr(imported, attribute)


def _import_module(module: str, name: str) -> object:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # one that the user's module wants
            raise user_code_error(name, "an import that succeeds", error) from error
        fix = "start where its file is, or put that folder on PYTHONPATH"
        raise UsageError(expected=f"a module {module}", got="none that Python finds", fix=fix, where=name) from error
    except Exception as error:  # whatever the user's code meets
        raise user_code_error(name, "an import that succeeds", error) from error


def user_code_error(name: str, expected: str, error: Exception) -> UsageError:
    """What to say of an error in the user's own code."""
    return UsageError(expected=expected, got=f"{type(error).__name__}: {error}", fix="correct that code", where=name)


class ForeignPart(NamedTuple):
    """What a file keeps of a part from outside the library, so that another part is not taken for it.

    Attributes:
        kind: folder that it belongs to.
        name: under which it is used.
        qualified: module and name of its code.
        digest: SHA-256 of its source text; "" where there is none, as in a notebook.
    """

    kind: str
    name: str
    qualified: str
    digest: str

    @classmethod
    def from_part(cls, kind: str, name: str, part: object) -> ForeignPart:
        """What to keep of ``part``, a class or function."""
        try:
            digest = hashlib.sha256(inspect.getsource(part).encode()).hexdigest()  # type: ignore[arg-type]
        except (OSError, TypeError):
            digest = ""
        return cls(kind, name, f"{part.__module__}.{getattr(part, '__qualname__', name)}", digest)


def check_same_code(held: Iterable[ForeignPart], given: Iterable[ForeignPart], where: str) -> None:
    """Refuse foreign parts whose code is not that of the parts that a file was written with.

    Args:
        held: what the file keeps of them.
        given: the parts that the caller passed.

    Raises:
        ArtifactError: other code, or no such part.
    """
    now = {(part.kind, part.name): part for part in given}
    for part in held:
        other = now.get((part.kind, part.name))
        if other is None or (part.digest and other.digest != part.digest):
            got = "nothing" if other is None else f"{other.qualified} with other source text"
            expected = f"{part.qualified} as it was then (SHA-256 {part.digest[:12]}...)"
            fix = "pass that code, or fit again with the present one"
            raise ArtifactError(expected=expected, got=got, fix=fix, where=where)


def foreign_parts(kind: str, name: str, part: object, members: Mapping[str, Any]) -> list[ForeignPart]:
    """What a file keeps of a part besides its name: nothing of one of this library."""
    return [] if members.get(name) is part else [ForeignPart.from_part(kind, name, part)]


def find_stored_part(
    kind: str, name: str, held: Iterable[ForeignPart], members: Mapping[str, T], trusted: Mapping[str, Any], where: str
) -> T:
    """The part that a file means by ``name``; see :func:`find_trusted_part`.

    Args:
        held: :func:`foreign_parts` of the file.

    Raises:
        ArtifactError: a foreign part that was not passed, or one with other code than the file was written with.
    """
    part = find_trusted_part(kind, name, members, trusted, where)
    of_it = [one for one in held if (one.kind, one.name) == (kind, name)]
    check_same_code(of_it, [ForeignPart.from_part(kind, name, part)], where)
    return part


def check_instance(found: object, kind: type, fix: str, where: str) -> None:
    """Refuse an argument that is no ``kind``, as None or a name."""
    if not isinstance(found, kind):
        raise UsageError(expected=f"a {kind.__name__}", got=f"a {type(found).__name__}", fix=fix, where=where)
