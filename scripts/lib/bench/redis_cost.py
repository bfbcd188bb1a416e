"""What Redis says of itself: commands, processor time, memory; and who sent the commands, by watching them.

INFO counts what scripts call like what clients send; MONITOR tells them apart, and slows Redis down: figures of time
come from INFO alone.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from lib.bench.connections import Address
from lib.topologies import Server

__all__ = ["CommandStats", "Watched", "parse_commandstats", "redis_cpu_s", "stored_bytes", "watching"]

LINE_BYTES = 1 << 26
# +1700000000.000000 [0 127.0.0.1:50000] "EVALSHA" ... ; [0 lua] for what a script calls
_LINE = re.compile(rb'^\+[\d.]+ \[\d+ (\S+)\] "([^"]+)"')
# Bookkeeping of connections: not of tasks.
_OWN = frozenset({"monitor", "info", "config|resetstat"})


@dataclass(frozen=True)
class CommandStats:
    """Calls and microseconds by command, since some moment."""

    calls: Mapping[str, int]
    usec: Mapping[str, int]

    def __sub__(self, earlier: "CommandStats") -> "CommandStats":
        calls = {name: n - earlier.calls.get(name, 0) for name, n in self.calls.items()}
        usec = {name: n - earlier.usec.get(name, 0) for name, n in self.usec.items()}
        return CommandStats({k: v for k, v in calls.items() if v}, {k: usec[k] for k, v in calls.items() if v})


def parse_commandstats(info: Mapping[str, object]) -> CommandStats:
    """INFO commandstats as redis-py gives it: `cmdstat_hset` → {calls, usec, ...}."""
    calls: dict[str, int] = {}
    usec: dict[str, int] = {}
    for key, value in info.items():
        if key.startswith("cmdstat_") and isinstance(value, Mapping):
            name = key.removeprefix("cmdstat_")
            if name not in _OWN:
                calls[name], usec[name] = int(value["calls"]), int(value["usec"])
    return CommandStats(calls, usec)


def command_stats(server: Server) -> CommandStats:
    """As of now."""
    return parse_commandstats(server.client.info("commandstats"))


def redis_cpu_s(info: Mapping[str, object]) -> float:
    """Seconds of processor time, of all its threads, from INFO cpu."""
    return float(str(info["used_cpu_user"])) + float(str(info["used_cpu_sys"]))


def stored_bytes(info: Mapping[str, object]) -> int:
    """From INFO memory: what the data take, without the buffers of connections."""
    return int(str(info["used_memory"])) - int(str(info["mem_clients_normal"]))


@dataclass
class Watched:
    """Commands by name: what clients sent, and what scripts called."""

    sent: Counter[str] = field(default_factory=Counter)
    in_scripts: Counter[str] = field(default_factory=Counter)

    def note(self, line: bytes) -> None:
        """A line of MONITOR; anything else is not noted."""
        found = _LINE.match(line)
        if found is None:
            return
        source, name = found[1], found[2].decode(errors="replace").lower()
        if name not in _OWN:
            (self.in_scripts if source == b"lua" else self.sent)[name] += 1


@contextlib.asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Watched]:
    """Every command within the context; complete once it has ended."""
    address = Address("127.0.0.1", server.port)
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=LINE_BYTES)
    watched = Watched()

    async def read() -> None:
        while line := await reader.readline():
            watched.note(line)

    writer.write(b"MONITOR\r\n")
    await reader.readline()
    task = asyncio.create_task(read(), name="monitor")
    try:
        yield watched
        # What was sent before this has been seen once this has.
        await asyncio.to_thread(server.client.ping)
        await asyncio.sleep(0.2)
    finally:
        writer.close()
        await asyncio.wait([task])
