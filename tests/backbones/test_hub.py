"""Models of the hub, from a server on this machine: fetched once, resumed, safetensors alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from clip_fewshot.backbones.hub import fetch_from_hub
from clip_fewshot.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "siglip"}',
    "model.safetensors": bytes(range(256)) * 400,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "open_clip_model.safetensors": b"the same weights for another library",
    "onnx/model.safetensors": b"and in another folder",
    "modeling_siglip.py": b"code",
}
FETCH = "import sys; from clip_fewshot.backbones.hub import fetch_from_hub; print(fetch_from_hub(sys.argv[1]))"


class Hub(BaseHTTPRequestHandler):
    """The two routes of the hub that a download takes."""

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server: Any = self.server
        path = unquote(urlsplit(self.path).path)
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        begin, status = 0, 200
        if path.startswith("/api/models/org/tiny"):
            entries = [_entry(name) for name in FILES]
            about = {"id": "org/tiny", "sha": COMMIT, "siblings": entries, "private": False, "tags": []}
            data = json.dumps(entries if "/tree/" in path else about).encode()
        elif name in FILES:
            data = FILES[name]
            if body:
                server.got.append((name, self.headers.get("Range")))
            if found := self.headers.get("Range"):
                begin, status = int(found.removeprefix("bytes=").split("-")[0]), 206
        else:
            self.send_error(404)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body and server.breaks and name == "model.safetensors":
            server.breaks = False
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(data[begin:])


def _entry(name: str) -> dict[str, Any]:
    digest = hashlib.sha256(FILES[name]).hexdigest()
    lfs = {"lfs": {"oid": digest, "size": len(FILES[name]), "pointerSize": 9, "sha256": digest}}
    return {"rfilename": name, "path": name, "type": "file", "size": len(FILES[name]), "oid": digest[:40], **lfs}


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.got, server.breaks = [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(name: str, cache: Path, hub: Any, **settings: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("huggingface_hub")
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", FETCH, name]
    return subprocess.run(command, env={**os.environ, **place, **settings}, text=True, capture_output=True, check=False)


def test_a_model_is_fetched_once_without_pickles_code_or_copies(tmp_path: Path, hub: Any) -> None:
    first = fetch("hf:org/tiny", tmp_path, hub)
    folder = Path(first.stdout.strip())
    assert first.returncode == 0, first.stderr
    kept = {"config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == kept == {name for name, _ in hub.got}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert fetch("hf:org/tiny", tmp_path, hub).stdout == first.stdout
    assert fetch("hf:org/tiny", tmp_path, hub, HF_HUB_OFFLINE="1").stdout == first.stdout
    assert fetch(f"hf:org/tiny@{COMMIT}", tmp_path, hub, HF_HUB_OFFLINE="1").stdout == first.stdout
    assert len(hub.got) == len(kept)


def test_a_broken_connection_is_taken_up_again(tmp_path: Path, hub: Any) -> None:
    hub.breaks = True
    found = fetch("hf:org/tiny", tmp_path, hub)
    assert (Path(found.stdout.strip()) / "model.safetensors").read_bytes() == FILES["model.safetensors"], found.stderr
    assert [name for name, _ in hub.got].count("model.safetensors") == 2


def test_what_is_neither_reachable_nor_cached_is_an_error(tmp_path: Path, hub: Any) -> None:
    found = fetch("hf:org/other", tmp_path, hub)
    assert "expected a model of the hub or its cache" in found.stderr
    assert "ResourceError" in found.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["hf:", "hf:tiny", "hf:org/", "hf:/tiny", "hf:a/b/c", "hf:@main"])
def test_names_of_another_form_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="hf:ORGANISATION/NAME, or hf:ORGANISATION/NAME@REVISION"):
        fetch_from_hub(name)
