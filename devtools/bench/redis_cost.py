"""What Redis says of itself: commands, processor time, memory, traffic; and, by watching it, who sent which commands.

INFO counts what scripts call like what clients send. MONITOR tells them apart, and slows Redis down: figures of time
never come from a stretch that was watched. Which keys its time goes to is asked of its SLOWLOG, which is cheap.
"""

import asyncio
import contextlib
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from devtools.topologies import Server
from shared_state.redis.lua import script_names, script_source

__all__ = ["RedisUse", "Watched", "key_kind", "memory_by_kind", "parse_use", "redis_use", "time_by_kind", "watching"]

LINE_BYTES = 1 << 26
NO_KEY = "(no key)"
SETTLE_S = 0.3
SCAN_AT_ONCE = 1000
# Below this a command is not logged: those are what scripts call, whose time is part of the script's, and trifles.
LOGGED_FROM_US, USUAL_US = 2, 10_000
LOG_BOUND, USUAL_BOUND = 500_000, 128
# Whom a command within a script says it is from.
_SCRIPT = b"?:0"
# +1700000000.000000 [0 127.0.0.1:50000] "EVALSHA" ...; [0 lua] for what a script calls
_LINE = re.compile(rb"^\+[\d.]+ \[\d+ (\S+)\] ")
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_TAG = re.compile(r"\{(?!nodes)(node:)?[^}]*\}")
# Ids behind a tag: of clients and sessions, and of nodes.
_TAIL = re.compile(r"(?<=\{\}):.*|(?<=\{nodes\}:node):.*", re.DOTALL)
# What this program asks itself.
_OWN = frozenset({"monitor", "info", "ping", "scan", "memory", "config", "slowlog", "hello", "client"})


@dataclass(frozen=True)
class RedisUse:
    """What a Redis has used since it started. `stored_bytes`: memory without the buffers of connections."""

    cpu_s: float
    commands: int
    stored_bytes: int
    net_in_bytes: int
    net_out_bytes: int

    def __sub__(self, earlier: "RedisUse") -> "RedisUse":
        return RedisUse(
            self.cpu_s - earlier.cpu_s,
            self.commands - earlier.commands,
            self.stored_bytes - earlier.stored_bytes,
            self.net_in_bytes - earlier.net_in_bytes,
            self.net_out_bytes - earlier.net_out_bytes,
        )


def parse_use(info: Mapping[str, object]) -> RedisUse:
    """INFO, as redis-py reads it. Raises KeyError for a server that does not say these things (below Redis 6)."""

    def value(name: str) -> float:
        return float(str(info[name]))

    return RedisUse(
        cpu_s=value("used_cpu_user") + value("used_cpu_sys"),
        commands=int(value("total_commands_processed")),
        stored_bytes=int(value("used_memory") - value("mem_clients_normal")),
        net_in_bytes=int(value("total_net_input_bytes")),
        net_out_bytes=int(value("total_net_output_bytes")),
    )


def redis_use(server: Server) -> RedisUse:
    """As of now."""
    return parse_use(server.client.info())


def key_kind(key: str) -> str:
    """The key with its ids left out: `aip:session:{7dd}:x` → `aip:session:{}`."""
    return _TAIL.sub("", _TAG.sub(r"{\1}", key))


def memory_by_kind(server: Server) -> dict[str, tuple[int, int]]:
    """How many keys of each kind there are, and the bytes that they take together."""
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    keys = server.client.scan_iter(count=SCAN_AT_ONCE)
    while batch := list(islice(keys, SCAN_AT_ONCE)):
        pipeline = server.client.pipeline(transaction=False)
        for key in batch:
            pipeline.memory_usage(key, samples=0)
        for key, size in zip(batch, pipeline.execute(), strict=True):
            kind = key_kind(key.decode(errors="replace"))
            count, total = found[kind]
            found[kind] = count + 1, total + (size or 0)
    return dict(found)


def _kind_of(words: Sequence[str]) -> str:
    """The kind of the first key that a command names."""
    if words[0].lower() in {"eval", "evalsha"}:
        return key_kind(words[3]) if len(words) > 3 and words[2] != "0" else NO_KEY
    return key_kind(words[1]) if len(words) > 1 else NO_KEY


def _script_names() -> dict[str, str]:
    return {hashlib.sha1(script_source(name), usedforsecurity=False).hexdigest(): name for name in script_names()}


@dataclass
class Watched:
    """Commands: what clients sent, by name (of the script, for a script), and what scripts called.

    `by_key`: commands of both kinds by the first key that the client's command names. What a script calls is counted
    for the key of its caller: a script has one slot, and its caller's first key says which.
    """

    sent: Counter[str] = field(default_factory=Counter)
    in_scripts: Counter[str] = field(default_factory=Counter)
    by_key: Counter[str] = field(default_factory=Counter)
    _calling: str = ""
    _scripts: Mapping[str, str] = field(default_factory=_script_names, repr=False)

    def note(self, line: bytes) -> None:
        """A line of MONITOR. Anything else is not noted."""
        found = _LINE.match(line)
        if found is None:
            return
        words = [word[1].decode(errors="replace") for word in islice(_WORD.finditer(line, found.end()), 4)]
        name = words[0].lower()
        if found[1] == b"lua":
            self.in_scripts[name] += 1
            self.by_key[self._calling] += 1
            return
        if name in _OWN:
            return
        self._calling = _kind_of(words)
        if name == "evalsha":
            name = self._scripts.get(words[1], "evalsha")
        self.sent[name] += 1
        self.by_key[self._calling] += 1


@contextlib.asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Watched]:
    """Every command within the context; complete once it has ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=LINE_BYTES)
    watched = Watched()

    async def read() -> None:
        while line := await reader.readline():
            watched.note(line)

    writer.write(b"MONITOR\r\n")
    await reader.readline()
    reading = asyncio.create_task(read(), name="monitor")
    try:
        yield watched
        # What Redis had to say is on its way.
        await asyncio.sleep(SETTLE_S)
    finally:
        writer.write_eof()
        reading.cancel()
        await asyncio.wait([reading])
        writer.close()


@contextlib.contextmanager
def time_by_kind(server: Server) -> Iterator[Counter[str]]:
    """Microseconds of Redis within the context, by the first key of the command; there once it has ended.

    What it takes to read a command and to write its answer is not in it.
    """
    client = server.client
    found: Counter[str] = Counter()
    _log(server, LOGGED_FROM_US, LOG_BOUND)
    client.slowlog_reset()
    try:
        yield found
        # As Redis says it: redis-py would join the words of a command, and a script's text has spaces of its own.
        entries: list[list[Any]] = client.execute_command("SLOWLOG", "GET", LOG_BOUND)  # type: ignore[no-untyped-call]
        for _, _, took_us, words, client_address, _ in entries:
            command = [word.decode(errors="replace") for word in words[:4]]
            if client_address != _SCRIPT and command[0].lower() not in _OWN:
                found[_kind_of(command)] += took_us
    finally:
        _log(server, USUAL_US, USUAL_BOUND)


def _log(server: Server, from_us: int, bound: int) -> None:
    server.client.config_set("slowlog-log-slower-than", from_us)
    server.client.config_set("slowlog-max-len", bound)
