"""A webhook receiver to copy: verifies, answers at once, and acts on each event once and on none that is out of date.

DARKROOM_WEBHOOK_SECRET=whsec_… uvicorn examples.webhook_receiver:create_receiver --factory --port 9000

The secret is the one that `darkroom webhooks create https://…` printed, with the address of what ends TLS before this.
"""

import os
from collections import OrderedDict

from fastapi import BackgroundTasks, FastAPI, Request, Response

from client.webhooks import WebhookEvent, WebhookVerificationError, verify_webhook

REMEMBERED = 10_000  # a receiver of several processes keeps both of these in its database instead
LARGEST_BYTES = 64 * 1024


def create_receiver() -> FastAPI:
    """The application; raises KeyError when the environment has no secret."""
    secret = os.environ["DARKROOM_WEBHOOK_SECRET"]
    receiver = FastAPI()
    events: OrderedDict[str, None] = OrderedDict()  # ids that were taken
    versions: OrderedDict[str, int] = OrderedDict()  # the newest version of each job

    @receiver.post("/darkroom", status_code=204)
    async def receive(request: Request, tasks: BackgroundTasks) -> Response:
        body = b""
        async for piece in request.stream():  # the raw bytes: JSON read and written again has another signature
            body += piece
            if len(body) > LARGEST_BYTES:
                return Response(status_code=413)
        try:
            event = verify_webhook(request.headers, body, secret)
        except WebhookVerificationError as error:
            return Response(str(error), status_code=401, media_type="text/plain")
        if remember(event):
            tasks.add_task(handle, event)  # after the answer, for which Darkroom waits 15 s at most
        return Response(status_code=204, background=tasks)

    def remember(event: WebhookEvent) -> bool:
        """Whether this is news: not told before, and not older than what was."""
        subject, version = str(event.data.get("id")), int(event.data.get("version") or 0)
        if event.id in events or version < versions.get(subject, 0):
            return False
        events[event.id], versions[subject] = None, version
        versions.move_to_end(subject)
        for memory in (events, versions):
            if len(memory) > REMEMBERED:
                memory.popitem(last=False)
        return True

    return receiver


def handle(event: WebhookEvent) -> None:
    """What to do about it; here it is only printed."""
    subject = event.data.get("urls", {}).get("self") or event.data.get("id") or event.data.get("webhook")
    print(f"{event.timestamp:%H:%M:%S} {event.type} {subject}", flush=True)
