"""Where the socket of a webhook goes, whatever became of its name since it was saved."""

import pytest

from common.outbound.fetching import Outbound
from common.settings import Settings
from tests.endpoints import let_time_pass, rows_of, subscribe
from tests.unit.courier.sending import OK, Maker, canceled, run, url_of
from tests.unit.outbound.certificates import Authority
from tests.unit.outbound.hosts import Answers, Host
from tests.unit.outbound.loopback import HERE, TRAP, policy, second_loopback


def test_a_url_that_leads_inside_after_it_was_saved_is_refused_at_connect_and_logged(
    make_tools: Maker, settled: Settings
) -> None:
    resolver = Answers(hooks_example=[[HERE], ["10.0.0.1"], ["169.254.169.254"], ["::ffff:7f00:1"]])
    with Host(OK) as host:
        tools = make_tools(host.port, resolver=resolver, settings=settled)
        assert tools.outbound.check(url_of(host)).host == "hooks.example"
        subscribe(tools.database, url_of(host), vault=tools.vault)
        canceled(tools)
        for _ in range(3):
            run(tools)
            let_time_pass(tools.database)
        assert host.visits == []
    (row,) = rows_of(tools.database)
    assert (row.state, row.attempt) == ("pending", 3)
    assert all("not allowed" in entry["error"] for entry in row.log)
    assert not any("10.0.0" in entry["error"] or "169.254" in entry["error"] for entry in row.log)


@second_loopback
def test_the_socket_goes_to_the_vetted_address_and_never_to_another(make_tools: Maker, settled: Settings) -> None:
    resolver = Answers(hooks_example=[[HERE], [TRAP]], trap_example=[[TRAP]])
    with Host(OK) as host, Host(OK, TRAP) as trap:
        tools = make_tools(host.port, trap.port, resolver=resolver, settings=settled)
        subscribe(tools.database, url_of(host), vault=tools.vault)
        subscribe(tools.database, url_of(trap, "trap.example"), vault=tools.vault)
        canceled(tools)
        run(tools)
        canceled(tools)
        run(tools)
        assert [visit.peer for visit in host.visits] == [HERE]
        assert host.visits[0].headers["host"] == f"hooks.example:{host.port}"
        assert trap.visits == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[64:ff9b::7f00:1]:{port}/",
        "http://[2002:7f00:1::]:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://user@hooks.example:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://hooks.example:22/",
        "ftp://hooks.example/",
        "file:///etc/passwd",
    ],
)
def test_a_url_that_got_into_a_row_somehow_is_refused_all_the_same(
    make_tools: Maker, settled: Settings, url: str
) -> None:
    with Host(OK) as host:
        outbound = Outbound(policy(denied="127.0.0.0/8"), Answers(hooks_example=[[HERE]]))
        tools = make_tools(settings=settled, outbound=outbound)
        subscribe(tools.database, url.format(port=host.port), vault=tools.vault)
        canceled(tools)
        run(tools)
        assert host.visits == []
    (row,) = rows_of(tools.database)
    assert (row.state, row.attempt, row.log[0]["status"]) == ("pending", 1, None)
    assert row.log[0]["error"]


def test_bad_tls_is_a_failed_attempt(make_tools: Maker, settled: Settings, authority: Authority) -> None:
    with Host(OK, tls=authority.server_context("other.example")) as host:
        outbound = Outbound(policy(host.port), Answers(hooks_example=[[HERE]]), ssl_context=authority.client_context())
        tools = make_tools(settings=settled, outbound=outbound)
        subscribe(tools.database, f"https://hooks.example:{host.port}/", vault=tools.vault)
        canceled(tools)
        run(tools)
        assert host.visits[0].request == b""
    (row,) = rows_of(tools.database)
    assert "TLS" in row.log[0]["error"]
