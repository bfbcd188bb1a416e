"""Row `listing`: the list of a large fleet, and what it does to others who ask the same node meanwhile."""

import asyncio
import time
from dataclasses import dataclass

import orjson

from devtools.bench.connections import Address, HttpConnection, open_http
from devtools.bench.contestants import FLEET_SETTINGS, cluster
from devtools.bench.errors import BenchError
from devtools.bench.rows.base import Lab, Row, figure
from devtools.bench.rows.gathering import gathering

__all__ = ["listing"]

DEVICES, LISTINGS = 10_000, 10
ASK_EVERY_S = 0.005
HOW = (
    f"`GET /api/clients` with {DEVICES:,} devices connected, {LISTINGS} times one after another, at the node that "
    "holds them and at another; the same node is asked for /livez every 5 ms: the longest answer. What it takes at "
    "its longest without any listing is given beside it"
)


@dataclass(frozen=True)
class _Listed:
    """Milliseconds: each listing, the longest /livez meanwhile, and without a listing."""

    took_ms: list[float]
    stall_ms: float
    quiet_ms: float


async def listing(lab: Lab) -> Row:
    """Milliseconds. Raises BenchError, ScriptError."""
    rounds: list[list[_Listed]] = []
    for _ in range(lab.few_rounds):
        devices = lab.scale(DEVICES, 200)
        async with gathering(lab, cluster(2, FLEET_SETTINGS), devices) as (running, _):
            rounds.append([await _listed(lab, a, devices) for a in (*running.sockets, *running.rest)])
    figures = [
        figure(
            "listing/time",
            "`GET /api/clients` with 10,000 clients: time",
            "ms",
            [sorted(ms for one in both for ms in one.took_ms)[len(both) * LISTINGS // 2] for both in rounds],
            better="lower",
            floor=250,
            aim=80,
        ),
        figure(
            "listing/stall",
            "the node's longest other answer meanwhile",
            "ms",
            [max(one.stall_ms for one in both) for both in rounds],
            better="lower",
            floor=50,
            aim=10,
            beside={"without listing, ms": [max(one.quiet_ms for one in both) for both in rounds]},
        ),
    ]
    return Row("listing", figures, {"rounds": [[vars(one) for one in both] for both in rounds]}, HOW)


async def _listed(lab: Lab, node: Address, devices: int) -> _Listed:
    lab.settle()
    connection = await open_http(node)
    took: list[float] = []
    try:
        quiet_ms = await _longest(node, asyncio.create_task(asyncio.sleep(lab.scale(3, 1))))
        stall_ms = await _longest(node, asyncio.create_task(_list(connection, devices, took)))
    finally:
        connection.close()
    return _Listed(took, stall_ms, quiet_ms)


async def _list(connection: HttpConnection, devices: int, took_ms: list[float]) -> None:
    for _ in range(LISTINGS):
        start = time.perf_counter()
        answer = await connection.get("/api/clients")
        took_ms.append((time.perf_counter() - start) * 1000)
        if answer.status != 200 or len(orjson.loads(answer.body)["online_clients"]) != devices:
            raise BenchError(f"the list was answered with {answer.status}, and is not whole")
        await asyncio.sleep(0.05)


async def _longest(node: Address, until: asyncio.Task[None]) -> float:
    """The longest answer to /livez, in milliseconds, as long as `until` goes on."""
    connection = await open_http(node)
    longest = 0.0
    try:
        while not until.done():
            start = time.perf_counter()
            await connection.get("/livez")
            took_s = time.perf_counter() - start
            longest = max(longest, took_s)
            await asyncio.sleep(max(0.0, ASK_EVERY_S - took_s))
        await until
    finally:
        until.cancel()
        connection.close()
    return longest * 1000
