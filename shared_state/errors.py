"""What can go wrong with the shared state.

    StateError
    ├── StateUnavailable     Redis is away, overloaded, or refuses writes for now: try again later
    │   └── StateFull        Redis has no memory left for this, which goes on with what is small
    ├── AlreadyRegistered    another live connection holds this client id
    ├── NotRegistered        no live connection holds this client id
    ├── InboxFull            the client's inbox has reached its bound
    ├── TooManySessions      the device, or its node, has as many sessions under way as it may
    ├── QuotaReached         the bytes that wait for devices, or those of files, are as many as they may be
    ├── TaskNameTaken        a session with this task name has not ended yet
    ├── SessionExists        the session id belongs to somebody, or to a session that has not ended
    ├── KeyOfAnotherRequest  the idempotency key was used with another request
    ├── SessionEnded         the very request was carried out before
    ├── SessionNotFound      no such session, or its retention is over
    └── Fenced               a newer connection of the device drives the session by now

redis-py's own exceptions do not leave this package.
"""

__all__ = [
    "AlreadyRegistered",
    "Fenced",
    "InboxFull",
    "KeyOfAnotherRequest",
    "NotRegistered",
    "QuotaReached",
    "SessionEnded",
    "SessionExists",
    "SessionNotFound",
    "StateError",
    "StateFull",
    "StateUnavailable",
    "TaskNameTaken",
    "TooManySessions",
]


class StateError(Exception):
    """Base of everything this package raises."""


class StateUnavailable(StateError):
    """Redis cannot serve the call now. `str(error)` names the reason and holds no address and no secret."""


class StateFull(StateUnavailable):
    """Redis has, or will soon have, no memory left: what is large or new has to wait, what is under way goes on."""


class AlreadyRegistered(StateError):
    """The client id is held by a connection (`connection_id`) of a live node (`node_id`).

    Both are '' where the client is away, and was registered with another credential.
    """

    def __init__(self, client_id: str, node_id: str, connection_id: str) -> None:
        super().__init__(f"Client ID '{client_id}' is already registered")
        self.node_id = node_id
        self.connection_id = connection_id


class NotRegistered(StateError):
    """Nobody is registered under this client id."""


class InboxFull(StateError):
    """The client's inbox holds as many messages as it may."""


class TooManySessions(StateError):
    """The device (`of_device`), or the node that holds it, has as many sessions under way as it may."""

    def __init__(self, text: str, *, of_device: bool) -> None:
        super().__init__(text)
        self.of_device = of_device


class QuotaReached(StateError):
    """As many bytes are stored as may be; the text names the quota and the setting."""


class TaskNameTaken(StateError):
    """A session with this task name is still under way."""

    def __init__(self, task_name: str, session_id: str) -> None:
        super().__init__(f"Task '{task_name}' is already running")
        self.session_id = session_id


class NameHeld(StateError):
    """Some claim has this task name, perhaps of a session that has ended."""


class SessionExists(StateError):
    """The session id is in use: by another client, or by a session that has not ended."""


class SessionEnded(StateError):
    """The request came before, and its session has ended: this one is an echo of it."""


class KeyOfAnotherRequest(StateError):
    """The idempotency key stands for a request that was not this one."""


class SessionNotFound(StateError):
    """No session is stored under this id."""


class Fenced(StateError):
    """A newer connection of the session's device drives it: this one has nothing to say in it any more."""
