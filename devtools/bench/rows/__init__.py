"""The rows of the table, by name: `measure` gives the one that is asked for."""

from collections.abc import Awaitable, Callable

from devtools.bench.rows.arrival import arrival
from devtools.bench.rows.base import Figure, Lab, Row
from devtools.bench.rows.commands import commands
from devtools.bench.rows.contest import Contest
from devtools.bench.rows.growth import growth
from devtools.bench.rows.idle import idle
from devtools.bench.rows.listing import listing
from devtools.bench.rows.memory import memory
from devtools.bench.rows.storage import storage

__all__ = ["ROWS", "Contest", "Figure", "Lab", "Row", "measure"]

_ALONE: dict[str, Callable[[Lab], Awaitable[Row]]] = {
    "memory": memory,
    "arrival": arrival,
    "commands": commands,
    "storage": storage,
    "growth": growth,
    "idle": idle,
    "listing": listing,
}
ROWS = ("dispatch", "latency", *_ALONE)


async def measure(name: str, lab: Lab, contest: Contest) -> Row:
    """One row. `contest` is fought for the first of its two. Raises BenchError or ScriptError if that did not work."""
    if name == "dispatch":
        return await contest.dispatch()
    return await (contest.latency() if name == "latency" else _ALONE[name](lab))
