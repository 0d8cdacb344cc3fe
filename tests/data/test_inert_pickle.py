"""Pickles are read as values: real ones of protocols 2 to 5 come back whole, hostile ones are refused, run nothing."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.data import inert_pickle
from clip_fewshot.data.inert_pickle import InertInstance, read_pickle
from clip_fewshot.errors import DataError

MODULE = "dassl.data.datasets.base_dataset"
PROTOCOLS = (2, 3, 4, 5)
LOOSE = ("import", "exec", "compile", "os.", "subprocess.", "open", "socket.", "pickle.", "ctypes.", "shutil.")
HEARD: list[str] | None = None


class Datum:
    """As Dassl writes it; ``datum_module`` makes it a class of Dassl's module."""

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname


@contextmanager
def datum_module() -> Iterator[type[Datum]]:
    """Dassl's module, there while pickles are written and gone when they are read."""
    parts = [MODULE.rsplit(".", n)[0] for n in range(MODULE.count("."), -1, -1)]
    modules = {name: ModuleType(name) for name in parts}
    written = type("Datum", (Datum,), {"__module__": MODULE, "__qualname__": "Datum"})
    modules[MODULE].Datum = written  # type: ignore[attr-defined]
    sys.modules |= modules
    try:
        yield written
    finally:
        for name in modules:
            del sys.modules[name]


def draw_bytes(protocol: int, train: list[tuple[str, int, str]], val: list[tuple[str, int, str]] = []) -> bytes:  # noqa: B006
    """What CoOp writes: ``pickle.dump({"train": [Datum], "val": [Datum]})``."""
    with datum_module() as datum:
        parts = {
            key: [datum(path, label, 0, name) for path, label, name in rows]
            for key, rows in (("train", train), ("val", val))
        }
        return pickle.dumps(parts, protocol)


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if HEARD is not None:
        HEARD.append(event)


sys.addaudithook(_hear)  # for the life of the process: a hook cannot be taken away


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fails if anything is imported, executed, opened or started meanwhile."""
    global HEARD
    HEARD = []
    try:
        yield
    finally:
        heard, HEARD = HEARD, None
    assert not [event for event in heard if event.startswith(LOOSE)], heard


def read(data: bytes) -> Any:
    with nothing_runs():
        return read_pickle(data, {"Datum"}, "draw.pkl")


TRAIN = [
    ("/data/caltech-101/été/1.jpg", 0, "ant"),
    ("/data/caltech-101/été/2.jpg", 70_000, "bee " * 100),
    ("", 300, ""),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_written_is_read(protocol: int) -> None:
    found = read(draw_bytes(protocol, TRAIN * 200, TRAIN[:1]))
    assert list(found) == ["train", "val"]
    assert len(found["train"]) == 600
    assert {type(item) for item in found["train"]} == {InertInstance}
    rows = [[item.fields[f"_{key}"] for key in ("impath", "label", "classname", "domain")] for item in found["train"]]
    assert rows == [[*row, 0] for row in TRAIN] * 200
    assert found["train"][0].of == "Datum"


PLAIN = st.recursive(
    st.text() | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=100, deadline=None)
@given(value=PLAIN, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_equal_what_pickle_reads(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_a_value_that_comes_twice_is_one_object_and_may_hold_itself() -> None:
    inner: list[Any] = ["x"]
    inner.append(inner)
    found = read(pickle.dumps([inner, inner], 4))
    assert found[0] is found[1] is found[0][1]


class _Calls:
    def __init__(self, call: object, arguments: tuple[object, ...]) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


P2 = b"\x80\x02"
DATUM = b"c" + MODULE.encode() + b"\nDatum\n"
HOSTILE: dict[str, tuple[bytes, str]] = {
    **{
        f"os.system by REDUCE, protocol {n}": (
            pickle.dumps(_Calls(os.system, ("touch owned",)), n),
            r"class posix.system",
        )
        for n in PROTOCOLS
    },
    "inside a draw": (pickle.dumps({"train": [_Calls(os.system, ("touch owned",))]}, 4), "class posix.system"),
    "GLOBAL of eval": (P2 + b"cbuiltins\neval\n" + text("1") + b"\x85R.", "class builtins.eval at byte 2"),
    "STACK_GLOBAL of exec": (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", "class builtins.exec"),
    "STACK_GLOBAL of no texts": (b"\x80\x04]]\x93.", "name is no text"),
    "a class below Datum": (P2 + b"cos\nDatum.system\n.", r"class os.Datum.system"),
    "Datum called": (P2 + DATUM + b")R.", "opcode REDUCE"),
    "Datum with arguments": (P2 + DATUM + text("a") + b"\x85\x81.", "opcode TUPLE1"),
    "Datum with a list of arguments": (P2 + DATUM + b"]\x81.", "an instance with arguments"),
    "an instance of a text": (P2 + text("Datum") + b")\x81.", "of no class"),
    "NEWOBJ_EX": (b"\x80\x04" + DATUM + b")}\x92.", "opcode NEWOBJ_EX"),
    "INST": (P2 + b"(ios\nsystem\n.", "opcode INST"),
    "OBJ": (P2 + b"(" + DATUM + b"o.", "opcode OBJ"),
    "a persistent id": (P2 + text("a") + b"Q.", "opcode BINPERSID"),
    "a persistent id as text": (P2 + b"Pfile:///etc/passwd\n.", "opcode PERSID"),
    "an extension code": (P2 + b"\x82\x01.", "opcode EXT1"),
    "a buffer out of band": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "BUILD of a class": (P2 + DATUM + b"}b.", "a _Class built from a dict"),
    "BUILD of a dictionary": (P2 + b"}}b.", "a dict built from a dict"),
    "BUILD from a list": (P2 + DATUM + b")\x81]b.", "a InertInstance built from a list"),
    "BUILD from slots": (P2 + DATUM + b")\x81N}\x86b.", "opcode NONE"),
    "items of a class": (P2 + DATUM + text("a") + b"a.", "an item of a _Class"),
    "a list as a key": (P2 + b"}]]s.", "keys that are no texts"),
    "a class as a key": (P2 + b"}" + DATUM + b"]s.", "keys that are no texts"),
    "half a pair": (P2 + b"}(" + text("a") + b"u.", "keys that are no texts"),
    "bytes": (b"\x80\x03C\x01a.", "opcode SHORT_BINBYTES"),
    "a set": (pickle.dumps({"a"}, 4), "opcode EMPTY_SET"),
    "an empty stack": (P2 + b"a.", "a whole pickle"),
    "a mark that is not there": (P2 + b"]e.", "a whole pickle"),
    "a value that is not in the memo": (P2 + b"h\x05.", "no value 5 in the memo"),
    "nothing": (b"", "a whole pickle"),
    "no end": (P2 + b"]", "a whole pickle"),
    "another one behind it": (P2 + b"]." + P2 + b"].", "4 bytes behind its end"),
    "two values": (P2 + b"]].", "more than one value"),
    "a mark left open": (P2 + b"(].", "more than one value"),
    "a text longer than the file": (P2 + b"X\xff\xff\xff\x7fa.", "a whole pickle"),
    "a text of eight exbibytes": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fa.", "a whole pickle"),
    "protocol 0": (pickle.dumps({"train": []}, 0), "opcode MARK|opcode DICT"),
    "no pickle at all": (b"PK\x03\x04 an archive", "opcode PERSID|a whole pickle"),
    "control characters in a name": (P2 + b"cos\x1b[2J\nsystem\n.", r"os\\x1b\[2J.system"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_and_run_nothing(case: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[case]
    with pytest.raises(DataError, match=message) as caught:
        read(data)
    assert caught.value.where == "draw.pkl"
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_the_ear_hears(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=r"os\.system"), nothing_runs():
        pickle.loads(HOSTILE["os.system by REDUCE, protocol 4"][0])
    assert (tmp_path / "owned").exists()


def test_size_and_length_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw_bytes(4, TRAIN)
    steps = sum(1 for _ in pickletools.genops(whole))
    monkeypatch.setattr(inert_pickle, "MOST_STEPS", steps)
    monkeypatch.setattr(inert_pickle, "MOST_PICKLE_BYTES", len(whole))
    assert len(read(whole)["train"]) == 3
    monkeypatch.setattr(inert_pickle, "MOST_STEPS", steps - 1)
    with pytest.raises(DataError, match=f"more than {steps - 1} opcodes"):
        read(whole)
    monkeypatch.setattr(inert_pickle, "MOST_PICKLE_BYTES", len(whole) - 1)
    with pytest.raises(DataError, match=f"at most {len(whole) - 1} bytes"):
        read(whole)


def test_the_largest_draw_is_far_below_the_limits() -> None:
    """ImageNet, 16 shots and 4 to validate, with long paths."""
    rows = [
        (f"/home/other/data/imagenet/images/train/n{i:08d}/n{i:08d}_{k}.JPEG", i, f"class {i}")
        for i in range(100)
        for k in range(16)
    ]
    data = draw_bytes(4, rows)
    assert 20_000 / len(rows) * len(data) < inert_pickle.MOST_PICKLE_BYTES / 4
    assert 20_000 / len(rows) * sum(1 for _ in pickletools.genops(data)) < inert_pickle.MOST_STEPS / 4


def test_deep_and_shared_values_cost_no_more_than_their_bytes() -> None:
    deep = P2 + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert len(read(deep)) == 1
    bomb: list[Any] = []
    for _ in range(60):
        bomb = [bomb, bomb]  # 2 ** 60 leaves, none of which is visited
    found = read(pickle.dumps(bomb, 4))
    assert found[0] is found[1]
    marks = P2 + b"(" * 100_000 + b"."
    with pytest.raises(DataError):
        read(marks)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), protocol=st.sampled_from(PROTOCOLS), changes=st.integers(1, 6))
def test_damaged_pickles_are_read_or_refused(seed: int, protocol: int, changes: int) -> None:
    data, rng = bytearray(draw_bytes(protocol, TRAIN)), random.Random(seed)
    for _ in range(changes):
        place = rng.randrange(len(data))
        how = rng.randrange(3)
        if how == 0:
            data[place] = rng.randrange(256)
        elif how == 1:
            del data[place : place + rng.randrange(1, 9)]
        else:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
    with suppress(DataError):
        read(bytes(data))


def test_a_reader_that_ran_them_would_be_caught() -> None:
    """The oracle: what the pickles above do where they are run."""

    class Tempted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise AssertionError(f"{module}.{name}")

    for case in ("os.system by REDUCE, protocol 4", "GLOBAL of eval", "STACK_GLOBAL of exec"):
        with pytest.raises(AssertionError, match=r"system|eval|exec"):
            Tempted(io.BytesIO(HOSTILE[case][0])).load()
