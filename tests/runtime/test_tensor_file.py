"""Tensors written a piece at a time: the file of the format's own library, to the last byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from clip_fewshot.errors import ArtifactError
from clip_fewshot.runtime import tensor_file
from clip_fewshot.runtime.artifacts import find_artifact, load_artifact, save_artifact
from clip_fewshot.runtime.tensor_file import DTYPES, TensorFile, read_forms, read_tensors


def tensors() -> dict[str, Tensor]:
    """Every precision, and the shapes that a writer gets wrong: none, one of nothing, names that JSON escapes."""
    draws = torch.Generator().manual_seed(0)
    numbers = torch.randn(7, 3, generator=draws) * 50
    of_each = {f"of {name}": numbers.to(dtype, copy=True) for name, dtype in DTYPES.items()}
    odd = {"scalar": torch.tensor(3), "empty": torch.zeros(0, 4), 'a "\\\n\x1f \x7f é 漢 🐝': torch.ones(1)}
    return {"z": numbers, "Z": numbers[:2].clone(), "": torch.zeros(3)} | of_each | odd


def content(given: dict[str, Tensor]) -> bytes:
    file = TensorFile(given)
    whole = b"".join(file)
    assert len(whole) == file.size
    return whole


def test_the_bytes_are_those_of_the_library() -> None:
    given = tensors()
    assert content(given) == safetensors.torch.save(given)
    assert content({}) == safetensors.torch.save({})


def test_pieces_and_layouts_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"across": torch.arange(12.0).reshape(3, 4).T, "every other": torch.arange(9)[::2]}
    wanted = safetensors.torch.save({name: tensor.contiguous() for name, tensor in given.items()})
    monkeypatch.setattr(tensor_file, "PIECE", 5)
    assert content(given) == wanted


def test_tied_weights_are_written_twice_and_read_by_the_library() -> None:
    table = torch.randn(4, 4)
    found = safetensors.torch.load(content({"in": table, "out": table}))
    assert all(torch.equal(found[name], table) for name in ("in", "out"))


def test_no_piece_is_a_copy_of_what_lies_in_order_on_the_cpu() -> None:
    table = torch.zeros(8)
    _, piece = TensorFile({"table": table})
    table.fill_(1)
    assert bytes(piece) == b"\x00\x00\x80?" * 8


@pytest.mark.parametrize("held", [1, 1 << 28])
def test_what_is_written_is_read_one_by_one(tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "HELD", held)
    given = tensors()
    save_artifact(tmp_path / "kept", "kind", {"all.safetensors": TensorFile(given)}, {"n": 1})
    meta, files = find_artifact(tmp_path / "kept", "kind")
    read = dict(read_tensors(files["all.safetensors"]))
    assert meta == {"n": 1}
    assert read.keys() == given.keys()
    assert all(torch.equal(read[name], given[name]) for name in given)
    assert read_forms(files["all.safetensors"]) == {name: (tuple(t.shape), t.dtype) for name, t in given.items()}
    assert load_artifact(tmp_path / "kept", "kind")[1] == {"all.safetensors": content(given)}


def test_pieces_and_bytes_are_stored_alike_and_the_version_before_goes(tmp_path: Path) -> None:
    given = {"w": torch.zeros(3)}
    save_artifact(tmp_path / "one", "kind", {"w.safetensors": safetensors.torch.save(given)}, {})
    for value in (1.0, 0.0):
        save_artifact(tmp_path / "two", "kind", {"w.safetensors": TensorFile({"w": torch.full((3,), value)})}, {})
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_a_kill_in_the_middle_leaves_the_version_before(tmp_path: Path) -> None:
    class Torn(TensorFile):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield next(super().__iter__())
            raise KeyboardInterrupt

    save_artifact(tmp_path, "kind", {"w": TensorFile({"w": torch.zeros(3)})}, {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        save_artifact(tmp_path, "kind", {"w": Torn({"w": torch.ones(3)})}, {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_file_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match="expected a safetensors file"):
        read_forms(path)
    save_artifact(tmp_path / "kept", "kind", {"w.safetensors": TensorFile({"w": torch.zeros(3)})}, {})
    (kept,) = (tmp_path / "kept").glob("w-*")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="SHA-256"):
        find_artifact(tmp_path / "kept", "kind")
