"""The rows of the table, by name: `measure` gives those that are asked for, one after another."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from lib.bench.rows.arrival import arrival
from lib.bench.rows.base import Figure, Lab, Row
from lib.bench.rows.commands import commands
from lib.bench.rows.contest import Contest
from lib.bench.rows.growth import growth
from lib.bench.rows.idle import idle
from lib.bench.rows.listing import listing
from lib.bench.rows.memory import memory
from lib.bench.rows.storage import storage

__all__ = ["ROWS", "Figure", "Lab", "Row", "measure"]

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


async def measure(names: Sequence[str], lab: Lab) -> AsyncIterator[Row]:
    """Each row as it is done. Raises BenchError or ScriptError if something did not work."""
    contest = Contest(lab, set(names))
    rows: dict[str, Callable[[], Awaitable[Row]]] = {"dispatch": contest.dispatch, "latency": contest.latency}
    rows |= {name: partial(row, lab) for name, row in _ALONE.items()}
    for name in ROWS:
        if name in names:
            yield await rows[name]()
