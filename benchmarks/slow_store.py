"""An S3 store that keeps objects in memory and takes its time with every PUT: enough of the protocol for the service.

It checks no signature. For benchmarks of what a slow store does to the device, and for nothing else.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class _Server(ThreadingHTTPServer):
    """Holds the objects; one thread per connection."""

    def __init__(self, put_seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.put_seconds = put_seconds
        self.objects: dict[str, tuple[bytes, str]] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.put_seconds)
        self.server.objects[self._key] = (data, self.headers.get("Content-Type", "application/octet-stream"))
        self._answer(200, b"", ETag=_etag(data))

    def do_GET(self) -> None:
        self._give()

    def do_HEAD(self) -> None:
        self._give()

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._key, None)
        self._answer(204, b"")

    def log_message(self, *_: object) -> None:
        """Nothing: the benchmark speaks."""

    @property
    def _key(self) -> str:
        return urlsplit(self.path).path

    def _give(self) -> None:
        if self._key not in self.server.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", **{"Content-Type": "application/xml"})
            return
        data, kind = self.server.objects[self._key]
        modified = {"Last-Modified": formatdate(usegmt=True)}
        self._answer(200, data, ETag=_etag(data), **{"Content-Type": kind}, **modified)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def slow_store(put_seconds: float) -> Iterator[str]:
    """A store URL for the settings; every PUT takes at least so long."""
    server = _Server(put_seconds)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"s3://key:secret@bench?endpoint=http://127.0.0.1:{server.server_address[1]}&region=us-east-1&style=path"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
