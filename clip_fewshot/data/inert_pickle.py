"""Pickles as plain values: the opcodes are walked, and nothing that they name is imported or called.

A pickle is a program, and ``pickle.load`` runs it. We rejected an ``Unpickler`` whose ``find_class`` refuses: it still
calls, as the program says, what was let through. Here is a machine that has no call: the only opcodes are those that
make texts, integers, lists, dictionaries and bare instances. (Tensors need a few calls: `backbones/archive.py`.)
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clip_fewshot.data.names import escape
from clip_fewshot.errors import DataError
from clip_fewshot.runtime.units import format_size

MOST_PICKLE_BYTES, MOST_STEPS = 32 << 20, 4_000_000  # the 16 shots of ImageNet: 2 MB and 380,000 opcodes
LONGEST_SHOWN = 200  # characters of a name out of the file


@dataclass(frozen=True)
class InertInstance:
    """An instance that was never made: the name of its class, and what its ``__dict__`` would hold."""

    of: str
    fields: dict[str, Any] = field(default_factory=dict)


class _Class(NamedTuple):
    name: str


class _PickleRefusedError(Exception):
    """What a pickle asks for and does not get."""


def read_pickle(data: bytes, classes: Collection[str], where: str) -> Any:
    """The value of a pickle of protocol 2 to 5, made of texts, integers, lists, dictionaries and records.

    Args:
        data: the pickle.
        classes: names of the classes, in whatever module, whose instances become records.
        where: named in errors.

    Raises:
        DataError: anything else, by opcode, class and byte; a pickle that ends early, goes on, or is too large.
    """
    if len(data) > MOST_PICKLE_BYTES:
        raise _error(format_size(len(data)), f"at most {format_size(MOST_PICKLE_BYTES)}", where)
    machine, position = _Machine(classes), 0
    try:
        for step, (opcode, argument, place) in enumerate(pickletools.genops(data)):
            position = place or 0
            if step == MOST_STEPS:
                raise _PickleRefusedError(f"more than {MOST_STEPS:,} opcodes")
            machine.take(opcode.name, argument)
    except _PickleRefusedError as error:
        raise _error(f"{error} at byte {position:,}", "texts, integers, lists and dictionaries alone", where) from None
    except (ValueError, LookupError, DeprecationWarning) as error:  # of genops; of an empty stack or a lacking memo
        raise _error(f"{escape(str(error)[:LONGEST_SHOWN])} at byte {position:,}", "a whole pickle", where) from None
    if position + 1 != len(data):
        raise _error(f"{len(data) - position - 1:,} bytes behind its end", "one pickle", where)
    return machine.result


def _error(got: str, expected: str, where: str) -> DataError:
    fix = "restore the file, or write the paths, labels and class names as a table or as JSON"
    return DataError(expected=expected, got=got, fix=fix, where=where)


class _Machine:
    """Stack, memo and the opcodes that are known. MARK puts the stack aside, as the original does."""

    def __init__(self, classes: Collection[str]) -> None:
        self._classes, self.result = classes, None
        self._stack: list[Any] = []
        self._aside: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def take(self, name: str, argument: Any) -> None:
        """One opcode.

        Raises:
            _PickleRefusedError: one that does more than put values together, or asks for what such values cannot do.
            LookupError: nothing there to take.
        """
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise _PickleRefusedError(f"the opcode {name}")

    def mark(self, _: None) -> None:
        self._aside.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._aside.pop()
        return items

    def _popped(self, n: int) -> list[Any]:
        if len(self._stack) < n:
            raise LookupError("an empty stack")
        items = self._stack[len(self._stack) - n :]
        del self._stack[len(self._stack) - n :]
        return items

    def store(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else number] = self._stack[-1]

    def fetch(self, number: int) -> None:
        if number not in self._memo:
            raise LookupError(f"no value {number} in the memo")
        self._stack.append(self._memo[number])

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise _PickleRefusedError(f"an item of a {type(target).__name__}")
        target += items

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2 or not all(type(key) is str for key in items[::2]):
            raise _PickleRefusedError("a dictionary with keys that are no texts")
        target.update(zip(items[::2], items[1::2], strict=True))

    def name_class(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise _PickleRefusedError("a class whose name is no text")
        if name not in self._classes:
            raise _PickleRefusedError(f"the class {escape(f'{module}.{name}'[:LONGEST_SHOWN])}")
        self._stack.append(_Class(name))

    def make(self, _: None) -> None:
        made_of, arguments = self._popped(2)
        if type(made_of) is not _Class or arguments != ():
            raise _PickleRefusedError("an instance with arguments, or of no class")
        self._stack.append(InertInstance(made_of.name))

    def build(self, _: None) -> None:
        (state,), target = self._popped(1), self._stack[-1]
        if type(target) is not InertInstance or type(state) is not dict:
            raise _PickleRefusedError(f"a {type(target).__name__} built from a {type(state).__name__}")
        target.fields.update(state)

    def stop(self, _: None) -> None:
        (self.result,) = self._popped(1)
        if self._stack or self._aside:
            raise _PickleRefusedError("more than one value")


_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "APPEND": lambda machine, _: machine.append(machine._popped(1)),
    "APPENDS": lambda machine, _: machine.append(machine._since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine._popped(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine._since_mark()),
    "GLOBAL": lambda machine, names: machine.name_class(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_class(*machine._popped(2)),
    "NEWOBJ": _Machine.make,
    "BUILD": _Machine.build,
    "BINPUT": _Machine.store,
    "LONG_BINPUT": _Machine.store,
    "MEMOIZE": _Machine.store,
    "BINGET": _Machine.fetch,
    "LONG_BINGET": _Machine.fetch,
    "STOP": _Machine.stop,
}
