"""Checks that cannot hold the agent: each in a thread of its own, bounded in time, failing for itself alone.

A check that hangs (a dead network disk, a driver) is left to hang, reported as such, and not started again before it
has come back. The threads are daemons: none keeps the agent from ending.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["BoundedChecks", "Check", "failed"]

logger = logging.getLogger(__name__)

CHECK_S = 5.0
ERROR_CHARS = 200

Check = Callable[[], Any]


class BoundedChecks:
    """Named checks; what one raises becomes `{"error": …}` in its place."""

    def __init__(self, checks: Mapping[str, Check], *, timeout_s: float = CHECK_S) -> None:
        self._checks = dict(checks)
        self._timeout_s = timeout_s
        # Set once the check has come back: a thread lives on for a moment after that.
        self._back: dict[str, threading.Event] = {}

    async def run(self, names: Collection[str] | None = None) -> dict[str, Any]:
        """The findings, of some checks or all of them, after 5 s at most. Cancelling is safe."""
        chosen = [name for name in self._checks if names is None or name in names]
        return dict(zip(chosen, await asyncio.gather(*(self._one(name) for name in chosen)), strict=True))

    async def _one(self, name: str) -> Any:
        earlier = self._back.get(name)
        if earlier is not None and not earlier.is_set():
            return {"error": "an earlier check has not come back"}
        finding: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        back = self._back[name] = threading.Event()
        threading.Thread(target=self._find, args=(name, finding, back), name=f"check {name}", daemon=True).start()
        done, _ = await asyncio.wait([finding], timeout=self._timeout_s)
        if not done:
            logger.warning("the check %r has not come back after %g s", name, self._timeout_s)
            return {"error": f"not known after {self._timeout_s:g} s"}
        return finding.result()

    def _find(self, name: str, finding: "asyncio.Future[Any]", back: threading.Event) -> None:
        try:
            found = self._checks[name]()
        except Exception as exc:
            logger.debug("the check %r failed", name, exc_info=exc)
            found = {"error": (str(exc) or type(exc).__name__)[:ERROR_CHARS]}
        back.set()
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            finding.get_loop().call_soon_threadsafe(_settle, finding, found)


def failed(finding: Any) -> bool:
    """Whether this stands where a finding should."""
    return isinstance(finding, Mapping) and set(finding) == {"error"}


def _settle(finding: "asyncio.Future[Any]", found: Any) -> None:
    if not finding.done():
        finding.set_result(found)
