"""What the tests of deliveries share: a job to tell of, a host that hears of it, and one look of a courier."""

import json
from collections.abc import Callable
from typing import Any

from common.db.jobs import cancel_job
from common.domain.job import NewJob
from common.settings import Settings
from courier.dispatch import Dispatcher
from courier.tools import Tools
from tests.making import submit
from tests.unit.outbound.hosts import Answers, Host, Visit, answer, sends
from tests.unit.outbound.loopback import HERE

Maker = Callable[..., Tools]

OK = sends(answer(204))
MARKER = "an unmistakable prompt"


def canceled(tools: Tools, **changes: Any) -> NewJob:
    job = submit(tools.database, **changes)
    with tools.database.write() as connection:
        cancel_job(connection, "default", job.id)
    return job


def run(tools: Tools) -> int:
    """One look of a courier, and the end of its calls."""
    dispatcher = Dispatcher(tools)
    taken = dispatcher.run_once()
    dispatcher.join(30)
    return taken


def data_of(visit: Visit) -> Any:
    return json.loads(body_of(visit))["data"]


def body_of(visit: Visit) -> bytes:
    return visit.request.partition(b"\r\n\r\n")[2]


def url_of(host: Host, name: str = "hooks.example") -> str:
    return f"http://{name}:{host.port}/in"


def to(host: Host, make_tools: Maker, settings: Settings, **changes: Any) -> Tools:
    """Tools that reach this host by the name hooks.example."""
    return make_tools(host.port, resolver=Answers(hooks_example=[[HERE]]), settings=settings, **changes)
