"""The door: who may come in, and when the others may ask again."""

from collections.abc import Awaitable, Callable

import pytest

from node.cluster.membership import Membership
from node.gateway.admission import Admission, Place, TurnedAway
from node.telemetry.metrics import Limit, Metrics
from shared_state.clients import Clients
from tests.support.asgi import Device, Socket
from tests.support.clock import Clock
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

Entered = Place | TurnedAway
ANYBODY = "192.0.2.1"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _door(clock: Clock, *, share: float = 1.0, **limits: int) -> Admission:
    given = {"burst": 10, "max_connections": 100, "max_unregistered": 50, "max_registering": 5} | limits
    rate = given.pop("rate", 5)
    return Admission(Metrics(), rate_per_s=rate, address_share=share, clock=clock, rng=lambda: 0.999, **given)


def _limits(entered: list[Entered]) -> list[Limit | None]:
    return [e.limit if isinstance(e, TurnedAway) else None for e in entered]


def test_a_herd_is_let_in_up_to_the_burst_and_then_at_the_rate(clock: Clock) -> None:
    door = _door(clock)
    assert _limits([door.enter(ANYBODY) for _ in range(12)]) == [None] * 10 + [Limit.CONNECT_RATE] * 2
    clock.pass_s(1)
    assert _limits([door.enter(ANYBODY) for _ in range(6)]) == [None] * 5 + [Limit.CONNECT_RATE]


def test_those_turned_away_are_spread_over_the_time_that_it_takes_to_let_them_in(clock: Clock) -> None:
    door = _door(clock)
    entered = [door.enter(ANYBODY) for _ in range(10 + 50)]
    away = [e.retry_after_s for e in entered if isinstance(e, TurnedAway)]
    assert len(away) == 50
    assert away[0] == 1
    assert away == sorted(away)
    assert away[-1] == 10, "fifty at five a second"
    clock.pass_s(100)
    for _ in range(10):
        door.enter(ANYBODY)
    later = door.enter(ANYBODY)
    assert isinstance(later, TurnedAway)
    assert later.retry_after_s == 1, "the herd of long ago is forgotten"


def test_nobody_is_sent_away_for_ever(clock: Clock) -> None:
    door = _door(clock)
    entered = [door.enter(ANYBODY) for _ in range(10_000)]
    assert max(e.retry_after_s for e in entered if isinstance(e, TurnedAway)) == 30


def test_a_place_is_given_back(clock: Clock) -> None:
    door = _door(clock, rate=0, max_connections=2)
    first, second = door.enter(ANYBODY), door.enter(ANYBODY)
    assert _limits([door.enter(ANYBODY)]) == [Limit.CONNECTIONS]
    assert isinstance(first, Place)
    assert isinstance(second, Place)
    with first:
        pass
    with second:
        second.registered()
        second.registered()
    assert _limits([door.enter(ANYBODY) for _ in range(3)]) == [None, None, Limit.CONNECTIONS]


def test_those_who_have_not_registered_are_counted_by_themselves(clock: Clock) -> None:
    door = _door(clock, rate=0, max_unregistered=2)
    first, _ = door.enter(ANYBODY), door.enter(ANYBODY)
    assert _limits([door.enter(ANYBODY)]) == [Limit.UNREGISTERED]
    assert isinstance(first, Place)
    first.registered()
    assert _limits([door.enter(ANYBODY), door.enter(ANYBODY)]) == [None, Limit.UNREGISTERED]


def test_one_address_has_no_more_than_its_share_of_those_who_have_not_registered(clock: Clock) -> None:
    door = _door(clock, rate=0, max_unregistered=8, share=0.25)
    first, _ = door.enter(ANYBODY), door.enter(ANYBODY)
    refused = door.enter(ANYBODY)
    assert isinstance(refused, TurnedAway)
    assert (refused.limit, refused.status) == (Limit.ADDRESS_SHARE, 429)
    assert _limits([door.enter("192.0.2.2")]) == [None]
    assert isinstance(first, Place)
    first.registered()
    assert _limits([door.enter(ANYBODY), door.enter(ANYBODY)]) == [None, Limit.ADDRESS_SHARE]


async def test_a_socket_too_many_is_told_when_to_ask_again_before_the_upgrade(make_node: MakeNode) -> None:
    node = await make_node(connect_rate_per_s=0.001, connect_burst=1)
    async with Device(node), Socket(node) as second:
        assert second.denied_with == 503
        assert 1 <= int(second.denied_headers["retry-after"]) <= 30
        refused = node.metrics.registry.get_sample_value("aip_refusals_total", {"reason": "connect_rate"})
        assert refused == 1


async def test_sockets_that_say_nothing_leave_those_who_register_their_places(make_node: MakeNode) -> None:
    node = await make_node(max_unregistered=2, max_connections=4)

    def accepted(count: int) -> bool:
        return node.metrics.registry.get_sample_value("aip_registrations_total", {"outcome": "accepted"}) == count

    async with Device(node, "d1"), Device(node, "d2"):
        await until(lambda: accepted(2), "both count as registered")
        async with Socket(node), Socket(node) as silent, Socket(node) as fifth:
            assert silent.denied_with is None
            assert fifth.denied_with == 503
        async with Device(node, "d3"):
            pass


async def test_only_so_many_registrations_are_stored_at_a_time(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await make_node(max_registering=3)
    genuine: Callable[..., Awaitable[object]] = Clients.register
    at_once = most = 0

    async def watched(self: Clients, *args: object, **options: object) -> object:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await genuine(self, *args, **options)
        finally:
            at_once -= 1

    monkeypatch.setattr(Clients, "register", watched)
    sockets = [Socket(node) for _ in range(12)]
    for socket in sockets:
        await socket.__aenter__()
    for i, socket in enumerate(sockets):
        socket.send(type="register", client_id=f"d{i}")
    await until(lambda: len(node.gateway.hub) == 12, "all are registered")
    for socket in sockets:
        assert (await socket.receive()).type == "heartbeat"
        await socket.close()
    assert most == 3


async def test_a_node_without_a_lease_refuses_sockets_before_their_upgrade(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer offers a refused upgrade to the next node; what is closed after it, only the client can try again."""
    node = await make_node()
    with monkeypatch.context() as lapsed:
        lapsed.setattr(Membership, "is_member", property(lambda _: False))
        async with Socket(node) as socket:
            assert socket.denied_with == 503
            assert 1 <= int(socket.denied_headers["retry-after"]) <= 5
    async with Device(node, "device-1"):
        assert len(node.gateway.hub) == 1
