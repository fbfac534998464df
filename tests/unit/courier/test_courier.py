"""The courier's loop: several errands at once, and a clean stop."""

import threading
from collections.abc import Callable
from typing import Any

from common.domain.lifecycle import JobState
from courier.main import Courier
from courier.tools import Tools
from tests.unit.courier.conftest import look, submit
from tests.unit.outbound.hosts import Host, answer, sends
from tests.waiting import wait_until

Maker = Callable[..., Tools]


def test_a_slow_host_does_not_hold_up_another(make_tools: Maker) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(visit: Any) -> None:
        asked.set()
        may_answer.wait(30)
        visit.send(answer(404))

    with Host(slow) as slow_host, Host(sends(answer(404))) as quick_host:
        tools = make_tools(slow_host.port, quick_host.port)
        courier = Courier(tools)
        courier.start()
        try:
            late = submit(tools.database, f"http://pictures.example:{slow_host.port}/")
            courier.ring()
            assert asked.wait(30)
            soon = submit(tools.database, f"http://pictures.example:{quick_host.port}/")
            courier.ring()
            wait_until(lambda: look(tools.database, soon).state is JobState.FAILED)
            assert look(tools.database, late).state is JobState.QUEUED
        finally:
            may_answer.set()
            courier.stop()
        assert look(tools.database, late).state is JobState.FAILED
    assert courier.is_stopped()


def test_a_stop_before_any_errand_returns(make_tools: Maker) -> None:
    tools = make_tools()
    courier = Courier(tools)
    courier.start()
    courier.stop()
    courier.stop()
    assert courier.is_stopped()
    assert tools.stop.is_set()  # an errand that takes long ends too
