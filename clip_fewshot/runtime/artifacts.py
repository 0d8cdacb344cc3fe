"""Saved things as folders: files under names made of their content, and one manifest that points at them.

Replacing ``manifest.json`` is the single step that publishes a new version, so a kill at any moment leaves the old
version or the new one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError

from clip_fewshot.errors import ArtifactError, ClipFewShotError
from clip_fewshot.runtime.files import (
    SEAL,
    check_seal,
    hash_bytes,
    hash_file,
    read_json,
    remove_half_files,
    rename_file,
    seal,
    write_bytes,
    write_json,
    write_pieces,
)
from clip_fewshot.runtime.outputs import FolderKind, check_folder
from clip_fewshot.runtime.reading import read_whole

ARTIFACT_SCHEMA = 2
UNSEALED = {"schema", "kind", "files", "meta", "meta_sha256"}  # of schema 1, which sealed "meta" alone
MANIFEST = "manifest.json"
ARTIFACT_SIGN = MANIFEST, frozenset({"schema", "kind", "files", "meta"})  # what a folder of one is known by
T = TypeVar("T")


class Pieces(Protocol):
    """Content that is made while it is written; a :class:`TensorFile` is one."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """The bytes in their order."""
        ...


def save_artifact(
    folder: Path, kind: str, files: Mapping[str, bytes | Pieces], meta: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Publish ``files`` (logical name -> content) and ``meta`` (JSON) as one version of ``folder``.

    A folder that holds something else than an artifact of the same kind is left alone and refused, unless ``overwrite``
    insists; files of other names stay there.
    """
    before = check_artifact_folder(folder, kind, overwrite)
    entries = {name: _write(folder, name, content) for name, content in files.items()}
    manifest = {"schema": ARTIFACT_SCHEMA, "kind": kind, "files": entries, "meta": dict(meta)}
    write_json(folder / MANIFEST, seal(manifest))
    _remove_unlisted(folder, before, {str(entry["file"]) for entry in entries.values()})


def check_artifact_folder(folder: Path, kind: str, overwrite: bool = False) -> set[str]:
    """The files of the version in ``folder``, if :func:`save_artifact` may publish another one there.

    Raises:
        ResourceError, ArtifactError: it may not.
    """
    check_folder(folder, FolderKind(f"saved {kind}", (ARTIFACT_SIGN,)), overwrite, is_leftover=_is_named_by_content)
    if overwrite or not os.path.exists(folder / MANIFEST):
        return set()
    return {str(entry["file"]) for entry in _read_manifest(folder, kind)["files"].values()}


def _write(folder: Path, name: str, content: bytes | Pieces) -> dict[str, str | int]:
    """What the manifest says of a file once it is written."""
    if isinstance(content, bytes):
        digest, size = hash_bytes(content), len(content)
        stored = _named_by_content(name, digest)
        if not (folder / stored).exists() or hash_file(folder / stored) != digest:
            write_bytes(folder / stored, content)
    else:
        half, size = folder / f".{name}.tmp", content.size  # its name is known when all of it is written
        digest = write_pieces(half, content, size)
        stored = _named_by_content(name, digest)
        rename_file(half, stored)
    return {"file": stored, "sha256": digest, "bytes": size}


def _named_by_content(name: str, digest: str) -> str:
    logical = Path(name)
    return f"{logical.stem}-{digest[:16]}{logical.suffix}"


def _is_named_by_content(path: Path) -> bool:
    """Whether a save wrote it, perhaps one that was killed before its manifest; no other file is read for that."""
    like = re.search("-[0-9a-f]{16}$", path.stem) is not None
    return like and os.path.isfile(path) and path.stem.endswith(f"-{hash_file(path)[:16]}")


def artifact_kind(folder: Path) -> str:
    """What was saved in ``folder``: the ``kind`` given to :func:`save_artifact`."""
    return str(_read_manifest(folder)["kind"])


def load_artifact(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read back (meta, files) of :func:`save_artifact`; every byte is checked against its SHA-256 first."""
    return _load(folder, kind, lambda path, most: (data := read_whole(path, most), hash_bytes(data)))


@contextmanager
def open_artifact(folder: Path, kind: str) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """:func:`load_artifact` for a block that makes something of it; what does not fit together is ArtifactError too."""
    found = load_artifact(folder, kind)
    with explain_content(str(folder)):
        yield found


def find_artifact(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """Like :func:`load_artifact`, with the paths of the files in place of what is in them: they may be large."""
    return _load(folder, kind, lambda path, most: (path, hash_file(path, most)))


def _load(folder: Path, kind: str, read: Callable[[Path, int], tuple[T, str]]) -> tuple[dict[str, Any], dict[str, T]]:
    """(meta, what ``read`` gives of each file); it gives the SHA-256 beside it, and takes the most bytes to read."""
    manifest = _read_manifest(folder, kind)
    files = {}
    for name, entry in manifest["files"].items():
        path = folder / entry["file"]
        try:
            files[name], digest = read(path, entry["bytes"])
        except OSError as error:
            raise ArtifactError(
                expected=f"a readable {name}", got=str(error), fix="restore the folder from a copy", where=str(path)
            ) from error
        if digest != entry["sha256"]:
            got, fix = f"{digest[:12]}...", "the file is damaged: restore it"
            raise ArtifactError(expected=f"SHA-256 {entry['sha256'][:12]}...", got=got, fix=fix, where=str(path))
    return manifest["meta"], files


def _read_manifest(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest, checked; ``kind`` None takes any."""
    path = folder / MANIFEST
    if not os.path.isfile(path):
        expected = f"a folder with a saved {kind or 'model'}"
        of_run = os.path.isfile(folder / "model" / MANIFEST)
        fix = "give the folder 'model' in it" if of_run else "check the path"
        raise ArtifactError(expected=expected, got="no manifest.json in it", fix=fix, where=str(folder))
    with explain_content(str(path)):
        content = read_json(path)
        if content["schema"] not in (1, ARTIFACT_SCHEMA):
            raise ArtifactError(
                expected=f"schema {ARTIFACT_SCHEMA}",
                got=f"schema {content['schema']}",
                fix="use the release that wrote it",
                where=str(path),
            )
        manifest = check_seal(content, str(path))
        meta = json.dumps(manifest["meta"], sort_keys=True)
        whole = manifest.get("meta_sha256", hash_bytes(meta.encode())) == hash_bytes(meta.encode())
        named = all(one["file"] == _named_by_content(name, one["sha256"]) for name, one in manifest["files"].items())
        formed = type(manifest["kind"]) is str and all(type(one["bytes"]) is int for one in manifest["files"].values())
        sealed = SEAL in manifest if manifest["schema"] == ARTIFACT_SCHEMA else manifest.keys() == UNSEALED
        formed = formed and all(Path(name).name == name for name in manifest["files"])
        if not (sealed and whole and named and formed):
            raise ArtifactError(
                expected="the manifest as it was written",
                got="a changed one",
                fix="restore the folder from a copy",
                where=str(path),
            )
    if kind not in (None, manifest["kind"]):
        got = f"a saved {manifest['kind']}"
        raise ArtifactError(expected=f"a saved {kind}", got=got, fix="check the path", where=str(folder))
    return manifest


@contextmanager
def explain_content(where: str) -> Iterator[None]:
    """What goes wrong in the block because a file says something else than such a file says, as ArtifactError.

    A seal shows damage. It is no signature: a person who writes a file on purpose seals what they like.
    """
    try:
        yield
    except ClipFewShotError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        SafetensorError,
    ) as error:
        expected = "what such a file says"
        got = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else error!r}"
        raise ArtifactError(expected=expected, got=got, fix="restore it from a copy", where=where) from error


def _remove_unlisted(folder: Path, before: set[str], listed: set[str]) -> None:
    """Drop the files of the version before and what a kill left behind; what a person put there stays."""
    remove_half_files(folder)
    for path in folder.iterdir():
        if path.name not in listed and (path.name in before or _is_named_by_content(path)):
            path.unlink(missing_ok=True)


def select_part(entries: Mapping[str, T], name: str) -> dict[str, T]:
    """The entries called ``name.*``, without that prefix."""
    return {k.removeprefix(f"{name}."): v for k, v in entries.items() if k.startswith(f"{name}.")}
