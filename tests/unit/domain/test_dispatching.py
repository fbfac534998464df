"""Whose deliveries are taken: the limits hold, no slot is left free for nothing, and nobody starves."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from common.domain.dispatching import Calls, Candidate, Group, Limits, Name, choose_deliveries, choose_groups

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOSTS, TENANTS = "abcd", "123"

counts = st.integers(0, 4)
names = st.tuples(st.sampled_from(HOSTS), st.sampled_from(TENANTS))
limits = st.builds(Limits, slots=st.integers(1, 16), per_host=st.integers(1, 5))


def group(host: str, tenant_id: str, *, age: int = 0, is_failing: bool = False) -> Group:
    return Group(host, tenant_id, NOON - timedelta(seconds=age), is_failing)


groups = st.lists(
    st.builds(group, st.sampled_from(HOSTS), st.sampled_from(TENANTS), age=st.integers(0, 9), is_failing=st.booleans()),
    unique_by=lambda one: one.name,
)


def calls_of(held: Counter[Group]) -> Calls:
    """These calls, all of this courier."""
    own = Counter[str]()
    for one, count in held.items():
        own[one.tenant_id] += count
    by_group = {one.name: count for one, count in held.items()}
    return Calls(by_group, own, sum(count for one, count in held.items() if one.is_failing))


@given(groups, st.dictionaries(names, counts), limits, st.integers(0, 16))
def test_no_limit_is_exceeded_by_what_is_chosen(
    waiting: list[Group], others: dict[Name, int], limit: Limits, free: int
) -> None:
    chosen = choose_groups(waiting, Calls(others), limit, free, {})
    assert sum(chosen.values()) <= free
    for host in HOSTS:
        before = sum(count for name, count in others.items() if name[0] == host)
        added = sum(count for name, count in chosen.items() if name[0] == host)
        assert added == 0 or before + added <= limit.per_host
    for tenant in TENANTS:
        assert sum(count for name, count in chosen.items() if name[1] == tenant) <= limit.half
    for one in waiting:
        now = others.get(one.name, 0) + chosen.get(one.name, 0)
        assert one.name not in chosen or now <= (1 if one.is_failing else limit.per_group)
    assert sum(chosen.get(one.name, 0) for one in waiting if one.is_failing) <= limit.half


@given(groups, limits, st.integers(0, 16))
def test_nothing_waits_while_a_place_that_it_may_have_is_free_but_for_one_that_is_kept(
    waiting: list[Group], limit: Limits, free: int
) -> None:
    chosen = choose_groups(waiting, Calls(), limit, free, {})
    if sum(chosen.values()) == free:
        return
    by_host, by_tenant = Counter[str](), Counter[str]()
    for (host, tenant), count in chosen.items():
        by_host[host] += count
        by_tenant[tenant] += count
    failing = sum(chosen.get(one.name, 0) for one in waiting if one.is_failing)
    for one in waiting:
        mine, kept = chosen.get(one.name, 0), 1 if len(chosen) < len(waiting) else 0
        is_full = mine >= limit.per_group or by_host[one.host] >= limit.per_host
        is_capped = by_tenant[one.tenant_id] + kept >= limit.half
        is_held = one.is_failing and (mine >= 1 or failing + kept >= limit.half)
        assert is_full or is_capped or is_held


@given(groups.filter(bool), limits, st.randoms(use_true_random=False))
def test_every_group_gets_its_turn_however_much_the_others_have(
    waiting: list[Group], limit: Limits, chance: object
) -> None:
    """All groups always have something due; calls end in any order, one after the other, but none lasts for ever."""
    held: list[tuple[int, Group]] = []
    turns: dict[Name, int] = {}
    by_name = {one.name: one for one in waiting}
    longest = 2 * limit.slots
    for turn in range(3 * longest * (len(waiting) + 1)):
        calls = calls_of(Counter(one for _, one in held))
        for name, count in choose_groups(waiting, calls, limit, limit.slots - len(held), turns).items():
            held += [(turn, by_name[name])] * count
            turns[name] = turn
        is_over = turn - held[0][0] >= longest
        held.pop(0 if is_over else chance.randrange(len(held)))  # type: ignore[attr-defined]
    assert set(turns) == set(by_name)


def test_one_tenant_leaves_a_place_of_a_host_to_others() -> None:
    limit = Limits(slots=32, per_host=4)
    flood = group("a", "1", age=9)
    assert choose_groups([flood], Calls(), limit, 32, {}) == {("a", "1"): 3}
    others = Calls({("a", "1"): 3}, {"1": 3})
    assert choose_groups([flood, group("a", "2")], others, limit, 29, {}) == {("a", "2"): 1}


def test_failing_groups_have_one_call_each_and_half_of_the_slots() -> None:
    dead = [group(f"dead{number}", str(number), is_failing=True, age=9) for number in range(20)]
    well = group("well", "x")
    chosen = choose_groups([*dead, well], Calls(), Limits(slots=8, per_host=4), 8, {})
    assert chosen.pop(("well", "x")) == 3
    assert len(chosen) == 4
    assert set(chosen.values()) == {1}


def test_one_tenant_with_many_hosts_has_half_of_the_slots() -> None:
    many = [group(f"host{number}", "1", age=9) for number in range(20)]
    chosen = choose_groups([*many, group("well", "2")], Calls(), Limits(slots=8, per_host=4), 8, {})
    assert chosen.pop(("well", "2")) == 3
    assert sum(chosen.values()) == 4


def test_who_has_nothing_in_the_air_comes_first_then_whose_turn_is_longest_ago_then_the_oldest() -> None:
    limit = Limits(slots=10, per_host=4)
    waiting = [group("a", "1", age=9), group("b", "2", age=1), group("c", "3", age=5)]
    assert choose_groups(waiting, Calls({("a", "1"): 1}, {"1": 1}), limit, 1, {}) == {("c", "3"): 1}
    assert choose_groups(waiting, Calls(), limit, 1, {("a", "1"): 1, ("c", "3"): 2}) == {("b", "2"): 1}


def deliveries_of(kinds: str) -> list[Candidate]:
    """`l` is one to a live endpoint, `f` one to a failing one; their ids are their places."""
    return [Candidate(str(place), kind == "f") for place, kind in enumerate(kinds)]


def test_of_a_group_live_endpoints_come_before_failing_ones() -> None:
    assert choose_deliveries(deliveries_of("ffflf"), 1, held=0, held_failing=0) == ["3"]
    assert choose_deliveries(deliveries_of("ffflf"), 1, held=1, held_failing=1) == ["3"]
    assert choose_deliveries(deliveries_of("flll"), 1, held=2, held_failing=1) == ["1"]


def test_a_failing_endpoint_is_asked_by_one_call_at_a_time_and_not_forgotten() -> None:
    assert choose_deliveries(deliveries_of("fff"), 3, held=0, held_failing=0) == ["0"]
    assert choose_deliveries(deliveries_of("fff"), 3, held=1, held_failing=1) == []
    assert choose_deliveries(deliveries_of("flll"), 3, held=0, held_failing=0) == ["1", "2", "0"]
    assert choose_deliveries(deliveries_of("flll"), 1, held=2, held_failing=0) == ["0"]


@given(st.text("lf", max_size=9), st.integers(1, 5), st.integers(0, 4), st.integers(0, 2))
def test_a_group_gets_no_more_than_chosen_and_no_live_one_waits_for_two_failing(
    kinds: str, count: int, held: int, held_failing: int
) -> None:
    chosen = choose_deliveries(deliveries_of(kinds), count, held, held_failing)
    failing = [one for one in chosen if kinds[int(one)] == "f"]
    assert len(chosen) == len(set(chosen)) <= count
    assert len(failing) <= (0 if held_failing else 1)
    assert len(chosen) - len(failing) >= min(count - 1, kinds.count("l"))
