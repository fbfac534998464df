"""Pictures on their way past the API, straight into its object store."""

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from client.transport import Transport, quoted, read_body
from client.uploads import FilePart, Upload


class DirectRoad:
    """The way into the server's object store. `connect` makes a transport to a store, to which no key is sent; the
    connections are kept until `close`. Safe to share between threads.
    """

    def __init__(self, server: Transport, connect: Callable[[str], Transport]) -> None:
        self._server = server
        self._connect = connect
        self._stores: dict[str, Transport] = {}
        self._lock = threading.Lock()
        self.has_store: bool | None = None
        """Whether the server has a store that takes files by itself; None until the first upload."""

    def upload(self, file: FilePart, declared: dict[str, Any]) -> Upload:
        """The upload of a file as `declared` of it. Raises `ClientError`."""
        awaited = read_body(self._server.request("POST", "v1/uploads/presign", may_repeat=True, json=declared))
        place = f"v1/uploads/{quoted(str(awaited['id']))}"
        put = awaited["put"]
        self.has_store = not put["url"].startswith(f"{awaited['urls']['self']}/")
        if self.has_store:
            _put(self._store("{0.scheme}://{0.netloc}".format(urlsplit(put["url"]))), put["url"], file, put["headers"])
        else:  # the server's own: the key may go there
            _put(self._server, f"{place}/content", file, put["headers"])
        return Upload(read_body(self._server.request("POST", f"{place}/complete", may_repeat=True)))

    def close(self) -> None:
        """Close every connection to a store."""
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._stores.clear()

    def _store(self, url: str) -> Transport:
        with self._lock:
            if url not in self._stores:
                self._stores[url] = self._connect(url)
            return self._stores[url]


def _put(transport: Transport, url: str, file: FilePart, headers: dict[str, str]) -> None:
    transport.request("PUT", url, may_repeat=True, headers=headers, content=file.data)
