"""The rows of the table, by name: `measure` gives those that are asked for, one after another."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from lib.bench.rows.base import Figure, Lab, Row
from lib.bench.rows.contest import Contest

__all__ = ["ROWS", "Figure", "Lab", "Row", "measure"]

_ALONE: dict[str, Callable[[Lab], Awaitable[Row]]] = {}
ROWS = ("dispatch", "latency", *_ALONE)


async def measure(names: Sequence[str], lab: Lab) -> AsyncIterator[Row]:
    """Each row as it is done. Raises BenchError or ScriptError if something did not work."""
    contest = Contest(lab, set(names))
    rows = {**_ALONE}
    for name in ROWS:
        if name == "dispatch" and name in names:
            yield await contest.dispatch()
        elif name == "latency" and name in names:
            yield await contest.latency()
        elif name in names:
            yield await rows[name](lab)
