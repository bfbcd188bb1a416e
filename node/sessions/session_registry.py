"""The sessions under way on this node: by id, and by the device whose socket they run over.

Whoever says something about a session is found here, or not at all: a message counts only for a session that runs over
the very socket it came by.
"""

from collections.abc import Iterator

from aip_cluster.protocol import ClientMessage
from node.connections.connection import Connection
from node.sessions.local_session import LocalSession

__all__ = ["SessionRegistry"]


class SessionRegistry:
    """A look-up, and nothing else: as long as the sessions that devices run at a time."""

    def __init__(self) -> None:
        self._by_id: dict[str, LocalSession] = {}
        self._by_device: dict[str, dict[str, LocalSession]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._by_id

    def __iter__(self) -> Iterator[LocalSession]:
        return iter(list(self._by_id.values()))

    def counts(self) -> dict[str, int]:
        """How many sessions are at work, and how many are not yet."""
        running = sum(s.running for s in self._by_id.values())
        return {"dispatched": len(self._by_id) - running, "running": running}

    def add(self, session: LocalSession) -> None:
        """Take a session in."""
        session_id, client_id = session.session_id, session.connection.client_id
        self._by_id[session_id] = session
        of_device = self._by_device.get(client_id)
        if of_device is None:
            of_device = self._by_device[client_id] = {}
        of_device[session_id] = session

    def remove(self, session: LocalSession) -> None:
        """Forget a session. Safe to repeat."""
        self._by_id.pop(session.session_id, None)
        of_device = self._by_device.get(session.connection.client_id)
        if of_device is not None:
            of_device.pop(session.session_id, None)
            if not of_device:
                del self._by_device[session.connection.client_id]

    def get(self, session_id: str) -> LocalSession | None:
        """The session, if it runs here."""
        return self._by_id.get(session_id)

    def over(self, connection: Connection) -> list[LocalSession]:
        """The sessions that run over this socket."""
        return [s for s in self._by_device.get(connection.client_id, {}).values() if s.connection is connection]

    def meant_by(self, connection: Connection, message: ClientMessage) -> LocalSession | None:
        """The session that a message over this socket is about: by its id, or by the message that it answers."""
        if message.session_id is not None:
            session = self._by_id.get(message.session_id)
            return session if session is not None and session.connection is connection else None
        wanted = message.prev_response_id
        if not wanted:
            return None
        return next((s for s in self.over(connection) if wanted in s.pending or wanted == s.order.response_id), None)

    def worked_on(self, connection: Connection) -> list[LocalSession]:
        """The sessions over this socket of which its device owes something: results, or the end."""
        return [s for s in self.over(connection) if s.in_step or s.pending or (s.planner.device_driven and s.running)]

    def echoed_by(self, connection: Connection, message: ClientMessage) -> LocalSession | None:
        """The session that a device's `task` repeats; UFO's client leaves out its id, so the task's name must do."""
        for session in self.over(connection):
            named = message.session_id is None and message.task_name == session.order.task_name
            if not session.echoed and (named or message.session_id == session.session_id):
                return session
        return None

    def for_file(self, connection: Connection, session_id: str | None) -> str | None:
        """The session that a file from this device belongs to: the one named, or its only one."""
        sessions = self.over(connection)
        if session_id is not None:
            return session_id if any(s.session_id == session_id for s in sessions) else None
        return sessions[0].session_id if len(sessions) == 1 else None
