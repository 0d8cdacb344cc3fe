"""Archives: honest ones read back exactly, hostile ones are refused and run nothing."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.backbones import archive
from clip_fewshot.backbones.archive import read_archive
from clip_fewshot.errors import ArtifactError


class Odd(nn.Module):
    """What a reader can stumble over: half precision, a strided buffer, a scalar, tied weights, plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv2d(3, 4, 2).half()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("strided", torch.arange(12.0).reshape(3, 4).T)
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("size", torch.tensor(224))
        self.words = ["a", "b"]
        self.number = 3

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.norm(x))) * self.scale


def scripted(module: nn.Module, path: Path) -> dict[str, Tensor]:
    """Save ``module`` as a TorchScript archive; what torch itself reads back from it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is on its way out; OpenAI's files stay
        torch.jit.script(module).save(str(path))
        loaded: dict[str, Tensor] = torch.jit.load(str(path)).state_dict()
    return loaded


def test_a_scripted_module_reads_back_as_torch_reads_it(tmp_path: Path) -> None:
    wanted = scripted(Odd().eval(), tmp_path / "odd.pt")
    found = read_archive(tmp_path / "odd.pt")
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def test_a_saved_state_dict_reads_back(tmp_path: Path) -> None:
    state = Odd().state_dict() | {"bf": torch.ones(3, dtype=torch.bfloat16), "long": torch.arange(5)[1:4]}
    torch.save({"epoch": 3, "loss": 0.5, "state_dict": state}, tmp_path / "a.pt")
    found = read_archive(tmp_path / "a.pt")
    assert found["epoch"] == 3
    assert all(torch.equal(found["state_dict"][key], tensor) for key, tensor in state.items())


def members(**files: bytes) -> dict[str, bytes]:
    return {"archive/" + name: data for name, data in files.items()}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore", UserWarning)  # a name twice
        for name, data in files.items():
            file.writestr(name, data)
    return path


class Record:
    """Pickled as a reference to the record ``key`` with ``numel`` floats."""

    def __init__(self, key: str, numel: int, dtype: str = "FloatStorage") -> None:
        self.key, self.numel, self.dtype = key, numel, dtype


class Call:
    """Pickled as the call of a function found by name."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.arguments


class Writer(pickle._Pickler):  # type: ignore[name-defined]  # the C one cannot write storages by name
    def persistent_id(self, item: object) -> object:
        if isinstance(item, Record):
            return "storage", getattr(torch, item.dtype), item.key, "cpu", item.numel
        return None


def pickled(value: object, protocol: int = 2) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        buffer = io.BytesIO()
        Writer(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor_call(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> Call:
    return Call(torch._utils._rebuild_tensor_v2, Record(key, numel), offset, size, stride, False, OrderedDict())


FLOATS = b"\0\0\x80\x3f" * 6  # six ones


def with_tensor(call: object) -> dict[str, bytes]:
    return {"archive/data.pkl": pickled({"w": call}), "archive/data/0": FLOATS}


def test_the_forger_of_these_tests_can_also_write_honest_archives(tmp_path: Path) -> None:
    found = read_archive(write_zip(tmp_path / "a.pt", with_tensor(tensor_call(6, (2, 3), (3, 1)))))
    assert torch.equal(found["w"], torch.ones(2, 3))


class SetsItself(nn.Module):
    """A module whose archive carries code that torch runs while loading."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary
        self.written = torch.zeros(4)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.canary, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.canary = state[0]
        self.training = state[1]
        self.written = torch.from_file(state[0], shared=True, size=4).fill_(7.0)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_code_that_runs_while_torch_loads_does_not_run_here(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "hostile.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(SetsItself(str(canary))).save(str(path))
        with pytest.raises(ArtifactError, match="restores itself by its own code"):
            read_archive(path)
        assert not canary.exists()
        torch.jit.load(str(path))
    assert canary.exists(), "the archive is harmless, so this test shows nothing"


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_calls_the_system_is_refused(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    hostile = pickled({"w": Call(os.system, f"touch {canary}")}, protocol)
    with pytest.raises(ArtifactError, match=r"system|instruction"):
        read_archive(write_zip(tmp_path / "a.pt", {"archive/data.pkl": hostile}))
    assert not canary.exists()
    pickle.loads(hostile)
    assert canary.exists(), "the pickle is harmless, so this test shows nothing"


HUGE = 1 << 40
REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "index beyond the record": (with_tensor(tensor_call(6, (2, 3), (4, 1))), "reaches beyond"),
    "offset beyond the record": (with_tensor(tensor_call(6, (2, 3), (3, 1), offset=1)), "reaches beyond"),
    "stride 0 blown up": (with_tensor(tensor_call(6, (HUGE,), (0,))), "reaches beyond"),
    "negative size": (with_tensor(tensor_call(6, (-1, 3), (3, 1))), "impossible tensor"),
    "negative offset": (with_tensor(tensor_call(6, (2,), (1,), offset=-2)), "impossible tensor"),
    "float size": (with_tensor(tensor_call(6, (2.0,), (1,))), "impossible tensor"),  # type: ignore[arg-type]
    "size without stride": (with_tensor(tensor_call(6, (2, 3), (1,))), "impossible tensor"),
    "record that lies about its size": (with_tensor(tensor_call(7, (2, 3), (3, 1))), "lies about its size"),
    "record that is not there": (with_tensor(tensor_call(6, (2, 3), (3, 1), key="9")), "damaged"),
    "record outside": (with_tensor(tensor_call(6, (2, 3), (3, 1), key="../../etc/passwd")), "damaged"),
    "tensor of no record": (
        with_tensor(Call(torch._utils._rebuild_tensor_v2, 1, 0, (1,), (1,), False, None)),
        "impossible",
    ),
    "no dict": ({"archive/data.pkl": pickled([1, 2])}, "no state dict"),
    "builtin": ({"archive/data.pkl": pickled({"w": Call(eval, "1 + 1")})}, "wants to call"),
    "getattr": ({"archive/data.pkl": pickled({"w": Call(getattr, 1, "real")})}, "wants to call"),
    "torch function": ({"archive/data.pkl": pickled({"w": Call(torch.hub.load, "x", "y")})}, "wants to call"),
    "memo at 4 billion": ({"archive/data.pkl": b"\x80\x02}r\xff\xff\xff\x7f."}, "more memory"),
    "old instruction": ({"archive/data.pkl": b"(ios\nsystem\n."}, "instruction INST"),
    "cut pickle": ({"archive/data.pkl": pickled({"w": 1})[:-4]}, "damaged"),
    "empty pickle": ({"archive/data.pkl": b""}, "damaged"),
    "pickle of nothing": ({"archive/data.pkl": b"\x80\x02."}, "damaged"),
    "no pickle": ({"archive/other": b""}, "exactly one data.pkl"),
    "two pickles": ({"a/data.pkl": pickled({}), "b/data.pkl": pickled({})}, "exactly one data.pkl"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forged_archives_are_refused(tmp_path: Path, name: str) -> None:
    files, message = REFUSED[name]
    with pytest.raises(ArtifactError, match=message):
        read_archive(write_zip(tmp_path / "a.pt", files))


def test_one_record_cannot_be_shared_into_more_than_the_file(tmp_path: Path) -> None:
    call = tensor_call(6_000, (6_000,), (1,))
    many = {"archive/data.pkl": pickled({f"w{i}": call for i in range(1_000)}), "archive/data/0": FLOATS * 1_000}
    with pytest.raises(ArtifactError, match="larger than the file"):
        read_archive(write_zip(tmp_path / "a.pt", many))


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled({"w": tensor_call(2_500_000, (2_500_000,), (1,))}))
        file.writestr("archive/data/0", b"\0" * 10_000_000, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(ArtifactError, match="data/0 compressed"):
        read_archive(path)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.pt", with_tensor(tensor_call(6, (2, 3), (3, 1))))
    for limit, message in (
        ("MAX_MEMBERS", "1 members"),
        ("MAX_ARCHIVE_BYTES", "1 byte"),
        ("MAX_PICKLE_BYTES", "sane size"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(archive, limit, 1)
            with pytest.raises(ArtifactError, match=message):
                read_archive(path)


def module_pickle(attributes: bytes) -> bytes:
    """An object of a scripted class; ``attributes`` is the pickle code of its dict; memo 0 is the object itself."""
    return b"\x80\x02c__torch__\nM\n)\x81q\x00" + attributes + b"b."


@pytest.mark.parametrize(
    "attributes",
    [
        b"}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u",  # a module that contains itself, twice
        b"}(X\x01\x00\x00\x00ah\x00u",
    ],
)
def test_a_module_that_contains_itself_is_refused(tmp_path: Path, attributes: bytes) -> None:
    path = write_zip(tmp_path / "a.pt", {"archive/data.pkl": module_pickle(attributes)})
    with pytest.raises(ArtifactError, match="bottomless"):
        read_archive(path)


def test_cut_and_flipped_archives_are_refused_or_whole(tmp_path: Path) -> None:
    """Damage ends in our error or in the tensors as they are in the file; no other exception gets out."""
    scripted(Odd().eval(), tmp_path / "odd.pt")
    data = (tmp_path / "odd.pt").read_bytes()
    draw = torch.Generator().manual_seed(0)
    positions = torch.randint(len(data), (150,), generator=draw).tolist()
    damaged = [data[:position] for position in positions[:75]]
    damaged += [data[:p] + bytes([data[p] ^ (1 << p % 8)]) + data[p + 1 :] for p in positions]
    refused = 0
    for content in damaged:
        (tmp_path / "b.pt").write_bytes(content)
        try:
            read_archive(tmp_path / "b.pt")
        except ArtifactError:
            refused += 1
    assert refused >= 75, "every cut must be seen"
