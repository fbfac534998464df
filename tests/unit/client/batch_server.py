"""A Darkroom server for folders of pictures: uploads, one batch after another, results. Time passes with each look."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from client.folder.patience import Patience
from client.folder.plan import FolderOptions
from client.folder.session import Handed, Session
from client.folder.summary import Summary
from client.sdk import Darkroom
from tests.unit.client.serving import answer, problem
from tests.unit.client.test_sdk import parts

URL = "http://darkroom.test"
BROKEN = b"no picture"


class Killed(BaseException):
    """The end of a process."""


class Instant(Patience):
    """Patience that takes no time."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waits: list[float] = []
        super().__init__(self.said.append)

    def rest(self, seconds: float) -> None:
        """Only see whether the run is stopped."""
        self.waits.append(seconds)
        super().rest(0)


@dataclass
class Batch:
    """One batch at the server; so many of its lines are developed."""

    id: str
    lines: list[dict[str, Any]]
    request: dict[str, Any]
    developed: int = 0
    status: str = "running"
    errors: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class BatchServer:
    """Each look at a batch develops `pace` lines. `fault` is asked before each request, `loss` before each answer."""

    pace: int = 3
    fault: Callable[[int, httpx.Request], httpx.Response | None] = lambda number, request: None
    loss: Callable[[int, httpx.Request], None] = lambda number, request: None
    fails: frozenset[str] = frozenset()
    failure: dict[str, Any] = field(default_factory=lambda: {"code": "out_of_memory", "detail": "too large"})
    has_store: bool = False
    verdict: httpx.Response | None = None
    contents: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def client(self, patience: Patience | None = None) -> Darkroom:
        """A client of this server."""
        sleep = (patience or Instant()).sleep_until_retry
        return Darkroom(URL, transport=httpx.MockTransport(self._handle), retry_seconds=900, sleep=sleep)

    def asked(self, method: str, ending: str) -> list[httpx.Request]:
        """The requests with this method whose path ends so."""
        return [one for one in self.requests if one.method == method and one.url.path.endswith(ending)]

    def result_of(self, line: dict[str, Any]) -> bytes:
        """The picture that a line becomes."""
        return b"developed " + self.contents[line["image"]["upload"]]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        request.read()
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            refusal = self.fault(number, request)
            is_probe = request.url.path == "/healthz"
            given = refusal or (answer(200, {"status": "ok"}) if is_probe else self._answer(request))
            self.loss(number, request)
            return given

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/")
        if request.method == "POST" and path == "uploads/presign":
            return self._presign(request)
        if request.method == "PUT":
            upload = next(part for part in path.split("/") if part.startswith("upl_"))
            self.contents[upload] = request.content
            return httpx.Response(204)
        if request.method == "POST" and path.endswith("/complete"):
            return answer(200, {"id": path.split("/")[1], "status": "ready"})
        if request.method == "POST" and path == "uploads":
            return self._upload(bytes(parts(request)["file"].get_payload(decode=True)))
        if request.method == "POST" and path == "jobs":
            return self.verdict or answer(200, {"feasible": True})
        if request.method == "POST" and path == "batches":
            return self._submit(request)
        if path == "batches":
            return answer(200, {"data": [self._shown(one) for one in self.batches.values()], "has_more": False})
        if path.endswith("/results"):
            return self._results(self.batches[path.split("/")[1]], request.url.params)
        if path.startswith("batches/"):
            return self._look(self.batches[path.split("/")[1]])
        return self._image(*path.split("/")[1:4:2])

    def _presign(self, request: httpx.Request) -> httpx.Response:
        upload = f"upl_{len(self.contents)}"
        self.contents[upload] = b""
        own = f"{URL}/v1/uploads/{upload}"
        put = f"http://store.test/v1/{upload}" if self.has_store else f"{own}/content"
        if self.has_store:
            put = f"http://store.test/bucket/{upload}"
        return answer(
            201, {"id": upload, "status": "pending", "urls": {"self": own}, "put": {"url": put, "headers": {}}}
        )

    def _upload(self, data: bytes) -> httpx.Response:
        if data.endswith(BROKEN):
            return problem(422, "image_unreadable")
        upload = f"upl_{len(self.contents)}"
        self.contents[upload] = data
        return answer(201, {"id": upload, "status": "ready"})

    def _submit(self, request: httpx.Request) -> httpx.Response:
        sent = parts(request)
        envelope, manifest = (bytes(sent[name].get_payload(decode=True)) for name in ("request", "manifest"))
        body = hashlib.sha256(envelope + manifest).hexdigest()
        key = request.headers["Idempotency-Key"]
        if key in self.keys:
            batch_id, before = self.keys[key]
            return answer(202, self._shown(self.batches[batch_id])) if before == body else problem(422, "mismatch")
        batch_id = f"bat_{len(self.batches)}"
        lines = [json.loads(line) for line in manifest.splitlines()]
        self.batches[batch_id] = Batch(batch_id, lines, json.loads(envelope))
        self.keys[key] = (batch_id, body)
        return answer(202, self._shown(self.batches[batch_id]))

    def _look(self, batch: Batch) -> httpx.Response:
        if batch.status == "running":
            batch.developed = min(len(batch.lines), batch.developed + self.pace)
            batch.status = "completed" if batch.developed == len(batch.lines) else "running"
        return answer(200, self._shown(batch))

    def _shown(self, batch: Batch) -> dict[str, Any]:
        failed = sum(line["custom_id"] in self.fails for line in batch.lines[: batch.developed])
        left = len(batch.lines) - batch.developed
        counts = {"total": len(batch.lines), "queued": left, "succeeded": batch.developed - failed, "failed": failed}
        if batch.status == "rejected":
            counts = {"total": len(batch.lines), "failed": len(batch.lines)}
        return {
            "id": batch.id,
            "status": batch.status,
            "counts": counts,
            "lines": {"inserted": len(batch.lines)},
            "errors": batch.errors,
            "metadata": batch.request.get("metadata", {}),
            "eta_seconds": float(left),
        }

    def _results(self, batch: Batch, asked: httpx.QueryParams) -> httpx.Response:
        ids = [line["custom_id"] for line in batch.lines]
        first = int(asked.get("after_line", -1)) + 1
        last = first + int(asked.get("limit", len(ids)))
        lines = [self._result(batch, number) for number in range(first, min(last, len(ids)))]
        return httpx.Response(200, content="".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def _result(self, batch: Batch, number: int) -> dict[str, Any]:
        line = batch.lines[number]
        shown = {
            "line": number,
            "custom_id": line["custom_id"],
            "job": f"job_{batch.id}_{number}",
            "images": [],
            "error": None,
        }
        if number >= batch.developed:
            return shown | {"status": "queued"}
        if line["custom_id"] in self.fails:
            return shown | {"status": "failed", "error": self.failure}
        digest = hashlib.sha256(self.result_of(line)).hexdigest()
        image = {"index": 0, "content_type": "image/png", "sha256": digest}
        return shown | {"status": "succeeded", "images": [image]}

    def _image(self, job_id: str, index: str) -> httpx.Response:
        _, batch, owner, number = job_id.split("_")
        return httpx.Response(200, content=self.result_of(self.batches[f"{batch}_{owner}"].lines[int(number)]))


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def run_folder(server: BatchServer, out: Path, folder: Path | None = None, **options: Any) -> Summary | Handed:
    """One run of the folder command without a terminal."""
    patience = Instant()
    with server.client(patience) as client:
        wishes = FolderOptions(out=out, server=URL, folder=folder, **options)
        return Session(client, wishes, Console(stderr=True, quiet=True), patience).run()


def written(out: Path) -> dict[str, bytes]:
    """The files of a folder of results by their relative names, without those of the run itself."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".darkroom-batch" not in path.parts
    }


def lines_of(path: Path) -> Sequence[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
