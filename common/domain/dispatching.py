"""Whose deliveries a courier takes next, so that no receiver, however dead, and no tenant delays another. Pure.

A group is what one tenant has for one host. The limits hold for calls in flight.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

Name = tuple[str, str]
"""Host and tenant."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group with something due: since when, and whether the endpoints that it is due for fail."""

    host: str
    tenant_id: str
    due_since: datetime
    is_failing: bool = False

    @property
    def name(self) -> Name:
        """Host and tenant."""
        return self.host, self.tenant_id


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls in flight: by group over all couriers, of this courier by tenant and to failing endpoints, and by group
    those to failing endpoints, over all couriers.
    """

    by_group: Mapping[Name, int] = field(default_factory=dict)
    own_by_tenant: Mapping[str, int] = field(default_factory=dict)
    own_failing: int = 0
    failing_by_group: Mapping[Name, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A delivery that is due, and whether its endpoint's last call failed."""

    delivery_id: str
    is_failing: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """`slots` are this courier's, `per_host` is over all couriers.

    One place of a host is kept for other tenants; one tenant has at most half of the slots, and so have all failing
    groups together, one each.
    """

    slots: int
    per_host: int

    @property
    def per_group(self) -> int:
        """Calls of one tenant to one host."""
        return max(1, self.per_host - 1)

    @property
    def half(self) -> int:
        """Slots of one tenant, and of all failing groups."""
        return max(1, self.slots // 2)


def choose_groups(
    groups: Sequence[Group], calls: Calls, limits: Limits, free: int, turns: Mapping[Name, int]
) -> dict[Name, int]:
    """How many deliveries to take of which group, at most `free` in all.

    Place after place goes to the group with the fewest calls, of these to the one whose last turn (`turns`) is longest
    ago, of these to the one that has been due for longest.
    """
    held = _Held(calls, limits)

    def order(one: Group) -> tuple[int, int, datetime]:
        return held.by_group[one.name], turns.get(one.name, -1), one.due_since

    chosen: Counter[Name] = Counter()
    for group in sorted((one for one in groups if not held.by_group[one.name]), key=order):
        if chosen.total() < free and held.add(group):
            chosen[group.name] += 1
        else:
            held.reserve(group)
    while chosen.total() < free:
        able = [group for group in groups if held.has_room(group)]
        if not able:
            break
        group = min(able, key=order)
        held.add(group)
        chosen[group.name] += 1
    return dict(chosen)


def choose_deliveries(candidates: Sequence[Candidate], count: int, held: int, held_failing: int) -> list[str]:
    """Which deliveries of a group to take, at most `count`, of these candidates in their order.

    `held` calls of the group are in flight, of which `held_failing` to failing endpoints. Those that do not fail go
    first: a dead endpoint must not delay a live one at the same host. One call in flight may be to a failing one; it
    gets a place when one is left over, or when the live ones have another already, so that it is never forgotten.
    """
    live = [one.delivery_id for one in candidates if not one.is_failing]
    failing = [one.delivery_id for one in candidates if one.is_failing]
    has_place = len(live) < count or held + count > 1
    probes = failing[:1] if not held_failing and has_place else []
    return live[: count - len(probes)] + probes


class _Held:
    """The calls in flight and those just chosen."""

    def __init__(self, calls: Calls, limits: Limits) -> None:
        self._limits = limits
        self._reserved: set[str] = set()
        self._has_reserved_failing = False
        self.by_group = Counter(dict(calls.by_group))
        self._by_tenant = Counter(dict(calls.own_by_tenant))
        self._failing = calls.own_failing
        self._by_host: Counter[str] = Counter()
        for (host, _), count in calls.by_group.items():
            self._by_host[host] += count

    def has_room(self, group: Group) -> bool:
        if group.is_failing and (self.by_group[group.name] > 0 or self._failing >= self._limits.half):
            return False
        return (
            self._by_host[group.host] < self._limits.per_host
            and self.by_group[group.name] < self._limits.per_group
            and self._by_tenant[group.tenant_id] < self._limits.half
        )

    def add(self, group: Group) -> bool:
        """A call of this group more. False when there is no room for it."""
        if not self.has_room(group):
            return False
        self.by_group[group.name] += 1
        self._by_host[group.host] += 1
        self._by_tenant[group.tenant_id] += 1
        self._failing += group.is_failing
        return True

    def reserve(self, group: Group) -> None:
        """Keep a slot for a group without a call that has just found no room: one of its tenant, for the first of them,
        and one of the failing, for the first of those.

        It would never get its turn if, whenever its host has a place, the slots that it may have were taken by others.
        """
        if group.tenant_id not in self._reserved:
            self._reserved.add(group.tenant_id)
            self._by_tenant[group.tenant_id] += 1
        if group.is_failing and not self._has_reserved_failing:
            self._has_reserved_failing = True
            self._failing += 1
