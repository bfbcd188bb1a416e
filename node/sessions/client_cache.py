"""What this node knows of the clients that it lately sent tasks to, so that a dispatch need not ask first.

What is known here may be old: whoever acts on it has Redis check it (`ExpectedVersion`) in the very call that
acts, and forgets it where it did not hold. Bounded; the one that was asked for longest ago goes first. Nothing is kept
of a client that is not registered, or that is away.
"""

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from shared_state.clients import Clients, Registration
from shared_state.session_create import KNOWN_CLIENTS, ExpectedVersion

__all__ = ["ClientCache", "Known"]


class Known(NamedTuple):
    """A registration, and what whoever acts on it has Redis check."""

    registration: Registration
    believed: ExpectedVersion


class ClientCache:
    """Registrations by client id."""

    def __init__(self, clients: Clients, *, bound: int = KNOWN_CLIENTS) -> None:
        self._clients = clients
        self._bound = bound
        self._known: OrderedDict[str, Known] = OrderedDict()

    def known(self, client_id: str) -> Known | None:
        """What was known of the client when it was last looked up; None if nothing is."""
        found = self._known.get(client_id)
        if found is not None:
            self._known.move_to_end(client_id)
        return found

    def look_up(self, client_id: str) -> "asyncio.Task[Registration | None]":
        """Ask Redis, beginning now. Awaiting it raises StateUnavailable."""
        task = asyncio.get_running_loop().create_task(self._look_up(client_id), name="look-up")
        # Whoever began it may fail for another reason, and not look.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def forget(self, client_id: str) -> None:
        """What was known does not hold."""
        self._known.pop(client_id, None)

    async def _look_up(self, client_id: str) -> Registration | None:
        found = await self._clients.find(client_id)
        if found is not None and found.node_id and found.held:
            self._known[client_id] = Known(found, ExpectedVersion(found.held, found.node_id))
            while len(self._known) > self._bound:
                self._known.popitem(last=False)
        return found
