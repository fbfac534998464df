"""Large files on their way past the API, straight into its object store."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from client.transport import Transport, quoted, read_body
from client.uploads import FilePart, Upload


def upload_directly(
    server: Transport, connect: Callable[[str], Transport], file: FilePart, declared: dict[str, Any]
) -> Upload:
    """The upload of a file as `declared` of it; `connect` makes a transport to a store, to which no key is sent."""
    awaited = read_body(server.request("POST", "v1/uploads/presign", may_repeat=True, json=declared))
    place = f"v1/uploads/{quoted(str(awaited['id']))}"
    put = awaited["put"]
    if put["url"].startswith(f"{awaited['urls']['self']}/"):  # the server's own: the key may go there
        _put(server, f"{place}/content", file, put["headers"])
    else:
        store = connect("{0.scheme}://{0.netloc}".format(urlsplit(put["url"])))
        try:
            _put(store, put["url"], file, put["headers"])
        finally:
            store.close()
    return Upload(read_body(server.request("POST", f"{place}/complete", may_repeat=True)))


def _put(transport: Transport, url: str, file: FilePart, headers: dict[str, str]) -> None:
    transport.request("PUT", url, may_repeat=True, headers=headers, content=file.data)
