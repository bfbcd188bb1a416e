"""Tasks for a fleet: as many as go with so many requests under way, or one at a time; and the proof that all arrived.

Every task has a number of its own, which comes back in what the device is sent. A burst ends when the last task has
been delivered and, where a contestant stores results, has ended; `verify` then reads each of them over REST.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from devtools.bench.connections import Address, HttpConnection, open_http
from devtools.bench.errors import BenchError
from devtools.bench.fleet import Fleet
from devtools.bench.stats import Latency, latency

__all__ = ["Burst", "Served", "burst", "one_at_a_time", "steady", "verify"]

PATIENCE_S = 60.0
READS_AT_ONCE = 32
STEADY_AT_ONCE = 256
_numbers = itertools.count()


class Served(Protocol):
    """Where tasks go: REST to `rest` in turn. Whether they reach a device, and whether their end is stored there."""

    @property
    def rest(self) -> Sequence[Address]:
        """The servers that take dispatches."""

    @property
    def delivers(self) -> bool:
        """Whether tasks reach devices."""

    @property
    def completes(self) -> bool:
        """Whether results can be read."""


@dataclass(frozen=True)
class Burst:
    """What a burst came to. Rates are over all tasks, from the first request on.

    `answered_per_s`: to the last answer; `delivered_per_s`: to the last task at a device; `completed_per_s`: to the
    last stored end. 0, or None, where that does not happen. `took_s` is the longest of these times.
    """

    tasks: int
    took_s: float
    answered_per_s: float
    delivered_per_s: float
    completed_per_s: float
    deliver: Latency | None
    answer: Latency
    generator_cpu_share: float


def _task(fleet: Fleet, number: int) -> bytes:
    return orjson.dumps(
        {
            "client_id": fleet.names[number % len(fleet.names)],
            "request": f"bench#{number}# open the file and report",
            "task_name": _name(number),
        }
    )


def _name(number: int) -> str:
    return f"bench-{number}"


class _Arrivals:
    """Waits until every task of a range has reached its device."""

    def __init__(self, fleet: Fleet, numbers: range) -> None:
        self._left = len(numbers)
        self._numbers = numbers
        self._all = asyncio.Event()
        fleet.on_task = self._on_task

    def _on_task(self, number: int) -> None:
        if number in self._numbers:
            self._left -= 1
            if not self._left:
                self._all.set()

    async def wait(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._all.wait()
        except TimeoutError:
            raise BenchError(f"{self._left} of {len(self._numbers)} tasks did not reach their device") from None


async def burst(served: Served, fleet: Fleet, tasks: int, *, at_once: int) -> tuple[Burst, range]:
    """Dispatch `tasks` with `at_once` requests under way. Returns what came of it and the tasks' numbers.

    Raises BenchError if a dispatch is refused, or a task is lost, delivered twice, or does not complete.
    """
    numbers = _take(tasks)
    connections = [await open_http(served.rest[i % len(served.rest)]) for i in range(at_once)]
    arrivals = _Arrivals(fleet, numbers)
    cpu, start = time.process_time(), time.perf_counter()
    try:
        sent, answered = await _send(connections, fleet, numbers)
        to_answer = time.perf_counter() - start
        if served.delivers:
            await arrivals.wait()
        to_delivery = time.perf_counter() - start
        if served.completes:
            await _await_end(served, numbers[-at_once:])
        to_end = time.perf_counter() - start
    except ExceptionGroup as errors:
        raise BenchError(str(errors.exceptions[0])) from errors
    finally:
        for connection in connections:
            connection.close()
    cpu = time.process_time() - cpu
    if fleet.twice:
        raise BenchError(f"{fleet.twice} tasks were delivered twice")
    came = [fleet.arrivals[number] - sent[number] for number in numbers] if served.delivers else []
    result = Burst(
        tasks=tasks,
        took_s=to_end,
        answered_per_s=tasks / to_answer,
        delivered_per_s=tasks / to_delivery if served.delivers else 0.0,
        completed_per_s=tasks / to_end if served.completes else 0.0,
        deliver=latency(came) if came else None,
        answer=latency(answered),
        generator_cpu_share=cpu / to_end,
    )
    return result, numbers


async def _send(
    connections: Sequence[HttpConnection], fleet: Fleet, numbers: range
) -> tuple[dict[int, int], list[int]]:
    """One request after another on each connection. Returns when each task was sent, and how long the answers took."""
    sent: dict[int, int] = {}
    answered: list[int] = []
    coming = iter(numbers)

    async def worker(connection: HttpConnection) -> None:
        for number in coming:
            body = _task(fleet, number)
            sent[number] = start = time.perf_counter_ns()
            answer = await connection.post(b"/api/dispatch", body)
            answered.append(answer.at_ns - start)
            if answer.status != 200:
                raise BenchError(f"a dispatch was answered with {answer.status}: {answer.body[:300]!r}")

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(worker(connection))
    return sent, answered


async def one_at_a_time(served: Served, fleet: Fleet, tasks: int, *, to_end: bool = False) -> tuple[Latency, range]:
    """Dispatch `tasks`, each after the answer and the delivery of the one before: from request to device.

    With `to_end` each waits for the end of the one before, too: then nothing else is under way.

    Raises BenchError as `burst`.
    """
    numbers = _take(tasks)
    connection = await open_http(served.rest[0])
    took: list[int] = []
    try:
        for number in numbers:
            arrivals = _Arrivals(fleet, range(number, number + 1))
            body = _task(fleet, number)
            start = time.perf_counter_ns()
            answer = await connection.post(b"/api/dispatch", body)
            if answer.status != 200:
                raise BenchError(f"a dispatch was answered with {answer.status}: {answer.body[:300]!r}")
            await arrivals.wait()
            took.append(fleet.arrivals[number] - start)
            if to_end:
                await _await_end(served, range(number, number + 1))
    finally:
        connection.close()
    return latency(took), numbers


async def steady(served: Served, fleet: Fleet, *, rate_per_s: float, seconds: float) -> range:
    """Dispatch at a steady pace, whatever the answers take; returns once all were answered and delivered.

    Raises BenchError as `burst`, and if the servers fall behind by more than `STEADY_AT_ONCE` requests.
    """
    numbers = _take(max(1, round(rate_per_s * seconds)))
    arrivals = _Arrivals(fleet, numbers)
    free: list[HttpConnection] = []
    under_way = 0

    async def send(number: int) -> None:
        nonlocal under_way
        if under_way >= STEADY_AT_ONCE:
            raise BenchError(f"{rate_per_s:g} tasks/s are more than the cluster takes")
        under_way += 1
        connection = await _usable(free, served.rest[number % len(served.rest)])
        answer = await connection.post(b"/api/dispatch", _task(fleet, number))
        if answer.status != 200:
            raise BenchError(f"a dispatch was answered with {answer.status}: {answer.body[:300]!r}")
        free.append(connection)
        under_way -= 1

    start = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for i, number in enumerate(numbers):
                await asyncio.sleep(start + i / rate_per_s - time.perf_counter())
                group.create_task(send(number))
        await arrivals.wait()
    except ExceptionGroup as errors:
        raise BenchError(str(errors.exceptions[0])) from errors
    finally:
        for connection in free:
            connection.close()
    return numbers


async def _usable(free: list[HttpConnection], address: Address) -> HttpConnection:
    """A connection that is still there, the one that was used last: servers close those that are idle for long."""
    while free:
        connection = free.pop()
        if connection.is_open:
            return connection
    return await open_http(address)


async def verify(served: Served, numbers: range) -> None:
    """Read every task over REST: stored, ended, completed. Raises BenchError."""
    if served.completes:
        await _await_end(served, numbers)


async def _await_end(served: Served, numbers: range) -> None:
    coming = iter(numbers)

    async def reader(address: Address) -> None:
        connection = await open_http(address)
        try:
            for number in coming:
                answer = await connection.get(f"/api/task_result/{_name(number)}?wait=30")
                said = orjson.loads(answer.body)
                if answer.status != 200 or said.get("status") != "done" or said.get("state") != "completed":
                    raise BenchError(f"task {_name(number)} did not complete: {answer.status} {said}")
        finally:
            connection.close()

    try:
        async with asyncio.TaskGroup() as group:
            for i in range(min(READS_AT_ONCE, len(numbers))):
                group.create_task(reader(served.rest[i % len(served.rest)]))
    except ExceptionGroup as errors:
        raise BenchError(str(errors.exceptions[0])) from errors


def _take(count: int) -> range:
    first = next(_numbers)
    for _ in range(count - 1):
        next(_numbers)
    return range(first, first + count)
