"""What several rows begin with: a contestant that runs, and a fleet on it."""

import contextlib
from collections.abc import AsyncIterator

from devtools.bench.contestants import Contestant, Running
from devtools.bench.fleet import Fleet
from devtools.bench.rows.base import Lab

__all__ = ["gathering"]

AT_ONCE = 50


@contextlib.asynccontextmanager
async def gathering(lab: Lab, contestant: Contestant, devices: int) -> AsyncIterator[tuple[Running, Fleet]]:
    """The contestant with so many devices registered; all gone after the context.

    Raises ScriptError if it does not start, BenchError if a device cannot register.
    """
    with contestant.running(lab.server_cpus) as running:
        fleet = Fleet(running.sockets, running.device)
        try:
            await fleet.arrive(devices, at_once=AT_ONCE)
            yield running, fleet
        finally:
            await fleet.leave()
