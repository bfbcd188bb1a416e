"""What is begun at once: most of what sends or receives something never has to wait.

A task costs ten times what such a call does. So it is driven to its first wait here; only if there is one, somebody has
to go on with it.
"""

from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Eager", "begin"]

_T = TypeVar("_T")


class Eager(Generic[_T]):
    """Something at its first wait. Awaiting it goes on with it; once, and not in another event loop."""

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Generator[Any, Any, _T], waits_for: Any) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, _T]:
        waits_for = self._waits_for
        while True:
            try:
                try:
                    came = yield waits_for
                except BaseException as exc:
                    waits_for = self._steps.throw(exc)
                else:
                    waits_for = self._steps.send(came)
            except StopIteration as done:
                result: _T = done.value
                return result


def begin(call: Awaitable[_T]) -> tuple[_T | None, Eager[_T] | None]:
    """Drive `call` to its end, or to its first wait: what it returned, or what is left of it.

    Raises what it raises. What it waits for first must not depend on the task that it runs in (no timeout, no lock).
    """
    steps = call.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as done:
        return done.value, None
    return None, Eager(steps, waits_for)
