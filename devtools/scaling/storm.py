"""Simulation: how a fleet comes back whose sockets all broke at once, and what it asks of the nodes meanwhile.

Admission is that of the nodes (`node.gateway.admission`) and waiting that of the device agent (`aip_cluster.backoff`),
both by a clock that the simulation turns. nginx hands a newcomer to the next node when one refuses it, `TRIES` times at
most. A node stores registrations one after another, each as long as was measured. Of many nodes that are alike only
some are looked at, with their share of the devices.
"""

import heapq
import itertools
import random
from dataclasses import dataclass

from aip_cluster.backoff import Backoff
from devtools.scaling.model import US
from node.gateway.admission import Admission, Place, TurnedAway
from node.settings import Settings
from node.telemetry.metrics import Metrics

__all__ = ["Returned", "returning"]

MOST_NODES = 10
TRIES = 3


@dataclass(frozen=True)
class Returned:
    """How it went: seconds until half, 99 % and all of them were registered; how often each was refused, on the
    average, each node that refused it counted; most registrations in a second, of the whole cluster."""

    half_s: float
    most_s: float
    all_s: float
    refusals: float
    registrations_per_s: float


class _Node:
    """One node's door, and when it will have stored what it has let in."""

    def __init__(self, settings: Settings, held: int, clock: "_Clock", rng: random.Random) -> None:
        self.done_at = 0.0
        self.admission = Admission(
            Metrics(),
            rate_per_s=settings.connect_rate_per_s,
            burst=settings.connect_burst,
            max_connections=settings.max_connections - held,
            max_unregistered=settings.max_unregistered,
            max_registering=settings.max_registering,
            # Every device has an address of its own, as far as this is concerned.
            address_share=1.0,
            clock=clock,
            rng=rng.random,
        )


class _Clock:
    """Seconds since everything broke."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def returning(settings: Settings, *, devices: int, nodes: int, held: int, arrival_us: float, seed: int = 1) -> Returned:
    """So many devices come back to so many nodes, each of which `held` others have stayed with.

    Raises ValueError if the nodes have no room for them.
    """
    if devices > nodes * (settings.max_connections - held):
        raise ValueError(f"{nodes} nodes have no room for {devices:,} more devices")
    looked_at = min(nodes, MOST_NODES)
    fleet = devices * looked_at // nodes
    # The same numbers each time: a simulation that can be repeated.
    rng, clock = random.Random(seed), _Clock()  # noqa: S311
    doors = [_Node(settings, held, clock, rng) for _ in range(looked_at)]
    next_door = itertools.cycle(range(looked_at))
    waiting = [Backoff(rng=rng.random) for _ in range(fleet)]
    # Who asks when; a registration that has been stored is an event of its own, with a negative number.
    events = [(backoff.next_s(), number) for number, backoff in enumerate(waiting)]
    heapq.heapify(events)
    back: list[float] = []
    refusals = 0
    places: dict[int, Place] = {}
    while events:
        clock.now, number = heapq.heappop(events)
        if number < 0:
            places.pop(number).registered()
            back.append(clock.now)
            continue
        first, retry_after_s = next(next_door), 0.0
        for i in range(min(TRIES, looked_at)):
            node = doors[(first + i) % looked_at]
            entered = node.admission.enter("")
            if not isinstance(entered, TurnedAway):
                node.done_at = max(node.done_at, clock.now) + arrival_us / US
                places[-number - 1] = entered
                heapq.heappush(events, (node.done_at, -number - 1))
                break
            refusals, retry_after_s = refusals + 1, entered.retry_after_s
        else:
            waiting[number].at_least(retry_after_s)
            heapq.heappush(events, (clock.now + waiting[number].next_s(), number))
    by_second = [sum(1 for _ in same) for _, same in itertools.groupby(int(at) for at in back)]
    return Returned(
        half_s=back[len(back) // 2],
        most_s=back[int(len(back) * 0.99)],
        all_s=back[-1],
        refusals=refusals / fleet,
        registrations_per_s=max(by_second) * nodes / looked_at,
    )
