"""A docker engine on loopback that starts nothing: it speaks enough of the API for a real client to run one job."""

from __future__ import annotations

import json
import re
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = "1.44"


class FakeEngine:
    """Records what is asked. The container writes ``output``, then ends with ``status`` or waits to be stopped."""

    def __init__(self, *, status: int = 0, forever: bool = False, image_known: bool = True) -> None:
        self.status, self.forever, self.image_known = status, forever, image_known
        self.output = ((1, b"result\n"), (2, b"progress\n"))
        self.created: dict[str, Any] = {}
        self.calls: list[str] = []
        self.started, self.written, self.stopped = threading.Event(), threading.Event(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"engine": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> FakeEngine:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.started.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    engine: FakeEngine
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(200, b"")

    def do_GET(self) -> None:
        if self.path.endswith("/_ping"):
            self._answer(200, b"OK")
        elif self.path.endswith("/version"):
            self._answer(200, {"ApiVersion": API, "MinAPIVersion": "1.24", "Version": "fake", "Os": "linux"})
        elif self.path.endswith("/json"):
            state = {"Running": False, "ExitCode": self.engine.status, "Status": "exited"}
            self._answer(200, {"Id": "a1", "Name": "/fake", "Config": {"Tty": False}, "State": state})
        else:
            self._answer(404, {"message": f"no such path {self.path}"})

    def do_POST(self) -> None:
        engine = self.engine
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = re.sub(r"^/v[0-9.]+/containers/(a1/)?", "", self.path).split("?")[0]
        engine.calls.append(call)
        if call == "create" and not engine.image_known:
            self._answer(404, {"message": "No such image: nowhere"})
        elif call == "create":
            engine.created = json.loads(body)
            self._answer(201, {"Id": "a1", "Warnings": []})
        elif call == "attach":
            self._stream()
        elif call == "start":
            engine.started.set()
            self._answer(204, b"")
        elif call == "wait":
            self._answer_later({"StatusCode": engine.status})
        else:
            if call == "stop":
                engine.stopped.set()
            self._answer(204, b"")

    def do_DELETE(self) -> None:
        self.engine.calls.append("remove")
        self._answer(204, b"")

    def _stream(self) -> None:
        """Frames of the attach protocol: one byte says which stream, four how long."""
        kind = "Content-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp"
        self.wfile.write(f"HTTP/1.1 101 UPGRADED\r\n{kind}\r\n\r\n".encode())
        self.wfile.flush()
        self.engine.started.wait(20)
        for stream, text in self.engine.output:
            self.wfile.write(struct.pack(">BxxxL", stream, len(text)) + text)
        self.wfile.flush()
        if self.engine.forever:
            self.engine.stopped.wait(20)
        self.engine.written.set()
        self.close_connection = True

    def _answer_later(self, body: dict[str, Any]) -> None:
        """The head at once, as clients wait for it before they start the container; the body at its end."""
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.flush()
        self.engine.written.wait(20)
        self.wfile.write(data)

    def _answer(self, code: int, body: bytes | dict[str, Any]) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Api-Version", API)
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        if code != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a test's output is its own."""
