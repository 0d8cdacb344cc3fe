"""Every durable write of the library: atomic, hashed, locked. No other module opens a file to write.

A file is written to a temporary name in the same folder, flushed to the disk and renamed.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from clip_fewshot.errors import ArtifactError, ResourceError
from clip_fewshot.runtime.reading import decode_json, open_regular, read_whole
from clip_fewshot.runtime.units import format_moment, format_size

if sys.platform != "win32":
    import fcntl

FILE_LOCK = ".lock"
LONGEST_PREFIX = 100  # characters of a file's name in that of its unfinished self
NO_PLACE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO),
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
}
SEAL = "sha256"


def cache_root() -> Path:
    """Folder of downloaded weights and cached features: ``CLIP_FEWSHOT_CACHE``, else the user's cache folder."""
    configured = os.environ.get("CLIP_FEWSHOT_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "clip_fewshot"
    try:
        return Path.home() / ".cache/clip_fewshot"
    except RuntimeError as error:  # a user without name and HOME, as in a container
        fix = "set CLIP_FEWSHOT_CACHE to a folder"
        raise ResourceError(expected="a place for a cache", got="no home folder", fix=fix, where="cache") from error


def hash_bytes(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path, most: int | None = None) -> str:
    """Hex SHA-256 of a regular file of at most that many bytes, read in pieces."""
    digest = hashlib.sha256()
    with open_regular(path, most) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that any reader, at any moment, sees the old file or the new one, whole."""
    with replace_file(path, len(data)) as file:
        file.write(data)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], needed: int) -> str:
    """Like :func:`write_bytes`, of content that is never whole in memory; its hex SHA-256.

    Args:
        needed: bytes in all.
    """
    digest = hashlib.sha256()
    with replace_file(path, needed) as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def rename_file(path: Path, name: str) -> None:
    """Give a file another name in its folder, in one step; a file of that name is replaced."""
    os.replace(path, path.with_name(name))
    _sync_folder(path.parent)


@contextmanager
def replace_file(path: Path, needed: int = 0) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` in one step once the block has ended without an exception."""
    with _explained(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:LONGEST_PREFIX]}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                _lock_file(handle)  # else another process takes it for what a kill has left
                yield file
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)  # mkstemp makes private files; a result is an ordinary one
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def copy_file(source: Path, target: Path, link: bool = False) -> None:
    """Copy a regular file with its time, or link to it, where nothing is yet."""
    with _explained(target, 0):
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(os.path.realpath(source))
            return
        with open_regular(source) as old, target.open("xb") as new:
            shutil.copyfileobj(old, new)
            times = os.fstat(old.fileno())
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextmanager
def open_resumable(path: Path) -> Iterator[BinaryIO]:
    """Open ``path``'s partial file, at its end, for this process alone; without an exception it becomes ``path``.

    After an exception, or a kill, what was written stays beside ``path`` and the next call goes on from there.
    """
    partial, lock = name_partial(path), path.with_name(f".{path.name}.lock")
    with _explained(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("ab") as guard:
            try:
                _lock_file(guard.fileno())
            except OSError:
                fix = "wait for it and run again"
                expected, got = "a file that no other process writes", "another process writes it"
                raise ResourceError(expected=expected, got=got, fix=fix, where=str(path)) from None
            with partial.open("ab") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        lock.unlink(missing_ok=True)  # no litter beside a user's file
        _sync_folder(path.parent)


def name_partial(path: Path) -> Path:
    """Where :func:`open_resumable` writes until ``path`` is whole."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Wait for ``path`` and hold it for this process while the block lasts; freed by the kernel at any death."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock_file(handle, wait=True)
        yield
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create ``path`` and what lies above it, where they are not there."""
    with _explained(path, 0):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Like :func:`write_bytes`, UTF-8. Undecodable file names (surrogates) are written as their escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def append_line(path: Path, line: str, durable: bool = False) -> None:
    """Add a line in one write, so that a kill leaves all of it or none; ``durable`` waits until all are on the disk."""
    with _explained(path, len(line)), path.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode("utf-8", "backslashreplace"))
        if durable:
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Like :func:`write_text`; strict JSON (NaN is refused), sorted keys, so equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=True) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours."""
    try:
        return decode_json(read_whole(path))
    except (ValueError, OSError) as error:
        expected = "a JSON file written by clip_fewshot"
        raise ArtifactError(expected=expected, got=str(error), fix="restore or delete it", where=str(path)) from error


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with the SHA-256 of what it says as JSON under ``SEAL``, for :func:`check_seal`."""
    text = json.dumps({name: value for name, value in content.items() if name != SEAL}, sort_keys=True)
    return {**content, SEAL: hash_bytes(text.encode())}


def check_seal(content: Any, where: str) -> dict[str, Any]:
    """``content`` as it was sealed; what has no seal is of a release that did not seal.

    Raises:
        ArtifactError: content that was changed since, or that was never such a file.
    """
    if isinstance(content, dict) and content.get(SEAL, seal(content)[SEAL]) == seal(content)[SEAL]:
        return content
    expected, fix = "the content that it was written with", "it is damaged: restore or delete it"
    raise ArtifactError(expected=expected, got="a changed one", fix=fix, where=where)


def remove_half_files(folder: Path, name: str = "") -> None:
    """Remove what kills left of the files of ``folder``, or of the one called ``name``; what is being written stays."""
    for path in folder.glob(f".{glob.escape(name[:LONGEST_PREFIX])}*.tmp"):
        with suppress(OSError), open_regular(path) as file:  # of another user, or held by its writer
            _lock_file(file.fileno())
            path.unlink(missing_ok=True)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process alone; a second holder is refused, with a message that says who has it.

    The kernel frees the lock when the process ends in any way, so a lock is never stale.
    """
    with _explained(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / FILE_LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _lock_file(handle)
        except OSError:
            owner = os.pread(handle, 4096, 0).decode("utf-8", "replace").strip() if hasattr(os, "pread") else ""
            raise ResourceError(
                expected="a folder that no other run writes to",
                got=f"one held by {owner or 'another process'}",
                fix="wait for it, or choose another folder (`out`)",
                where=str(folder),
            ) from None
        owner = f"pid {os.getpid()} on {socket.gethostname()} since {format_moment()}\n"
        os.ftruncate(handle, 0)
        os.write(handle, owner.encode())
        yield
    finally:
        os.close(handle)


def _lock_file(handle: int, wait: bool = False) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextmanager
def _explained(path: Path, needed: int) -> Iterator[None]:
    """Turn the operating system's refusals into our errors."""
    try:
        yield
    except ResourceError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(path.parent if path.parent.exists() else ".").free
            got = f"{format_size(free)} free ({error.strerror})"
            fix = "free some space and run again"
            raise ResourceError(expected=f"{format_size(needed)} of disk", got=got, fix=fix, where=str(path)) from error
        if error.errno in NO_PLACE:
            fix = "choose another folder"
            raise ResourceError(expected="a place to write to", got=str(error), fix=fix, where=str(path)) from error
        raise


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
