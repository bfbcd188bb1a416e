"""The sessions under way on this node: by id, and by the device whose socket they run over.

Whoever says something about a session is found here, or not at all: a message counts only for a session that runs over
the very socket it came by.
"""

from collections.abc import Iterator

from aip_cluster.protocol import ClientMessage
from node.connections.connection import Connection
from node.sessions.live_session import LiveSession

__all__ = ["SessionRegistry"]


class SessionRegistry:
    """A look-up, and nothing else: as long as the sessions that devices run at a time."""

    def __init__(self) -> None:
        self._by_id: dict[str, LiveSession] = {}
        self._by_device: dict[str, dict[str, LiveSession]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._by_id

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(list(self._by_id.values()))

    def counts(self) -> dict[str, int]:
        """How many sessions are at work, and how many are not yet."""
        running = sum(s.machine.running for s in self._by_id.values())
        return {"dispatched": len(self._by_id) - running, "running": running}

    def add(self, session: LiveSession) -> None:
        """Take a session in."""
        session_id, client_id = session.session_id, session.connection.client_id
        self._by_id[session_id] = session
        of_device = self._by_device.get(client_id)
        if of_device is None:
            of_device = self._by_device[client_id] = {}
        of_device[session_id] = session

    def remove(self, session: LiveSession) -> None:
        """Forget a session. Safe to repeat."""
        if self._by_id.get(session.session_id) is session:
            del self._by_id[session.session_id]
        of_device = self._by_device.get(session.connection.client_id)
        if of_device is not None:
            if of_device.get(session.session_id) is session:
                del of_device[session.session_id]
            if not of_device:
                del self._by_device[session.connection.client_id]

    def get(self, session_id: str) -> LiveSession | None:
        """The session, if it runs here."""
        return self._by_id.get(session_id)

    def over(self, connection: Connection) -> list[LiveSession]:
        """The sessions that run over this socket."""
        return [s for s in self._by_device.get(connection.client_id, {}).values() if s.connection is connection]

    def meant_by(self, connection: Connection, message: ClientMessage) -> LiveSession | None:
        """The session that a message over this socket is about: by its id, or by the message that it answers."""
        if message.session_id is not None:
            session = self._by_id.get(message.session_id)
            return session if session is not None and session.connection is connection else None
        wanted = message.prev_response_id
        if not wanted:
            return None
        return next((s for s in self.over(connection) if s.machine.is_answered_by(wanted)), None)

    def echoed_by(self, connection: Connection, message: ClientMessage) -> LiveSession | None:
        """The session that a device's `task` repeats; UFO's client leaves out its id, so the task's name must do."""
        for session in self.over(connection):
            named = message.session_id is None and message.task_name == session.spec.task_name
            if not session.machine.echoed and (named or message.session_id == session.session_id):
                return session
        return None

    def for_file(self, connection: Connection, session_id: str | None) -> str | None:
        """The session that a file from this device belongs to: the one named, or its only one."""
        sessions = self.over(connection)
        if session_id is not None:
            return session_id if any(s.session_id == session_id for s in sessions) else None
        return sessions[0].session_id if len(sessions) == 1 else None
