"""The states of a connection, from handshake to goodbye, and which input leads where. Pure.

| state | what it means | left by |
|---|---|---|
| NEW | nobody has registered over it | `registering` → REGISTERING |
| REGISTERING | the registration may be stored | `reading` → READING; `refused` → NEW |
| READING | the client's inbox is being read | `read` → LIVE; `woken` → READING_AGAIN; `failed` → STALLED |
| READING_AGAIN | the same, and more has come that a later read finds | `reading` → READING; `failed` → STALLED |
| LIVE | wake-ups carry the messages, and are handed over at once | `missed`, `failed` → STALLED; `reading` → READING |
| STALLED | the inbox could not be read: it is read again | `reading` → READING |
| GONE | the client left, or another connection took its place | nothing |

`gone` leads to GONE from everywhere. An input that a state does not know changes nothing. That the socket is being
closed is not a state here: what was handed over before still counts.
"""

from enum import Enum, auto

__all__ = ["ConnectionState"]


class ConnectionState(Enum):
    """See above. Each method is an input, and returns the state that follows."""

    NEW = auto()
    REGISTERING = auto()
    READING = auto()
    READING_AGAIN = auto()
    LIVE = auto()
    STALLED = auto()
    GONE = auto()

    @property
    def is_registered(self) -> bool:
        """Whether the connection holds its client."""
        return self in _REGISTERED

    @property
    def may_be_stored(self) -> bool:
        """Whether the registry may say that the connection holds its client: to be taken back when it goes."""
        return self in _REGISTERED or self is ConnectionState.REGISTERING

    @property
    def reads(self) -> bool:
        """Whether the inbox is being read."""
        return self in _READS

    def registering(self) -> "ConnectionState":
        """The registration is sent to Redis; it may be stored from now on."""
        return ConnectionState.REGISTERING if self is ConnectionState.NEW else self

    def refused(self) -> "ConnectionState":
        """The registration was refused: it is not stored."""
        return ConnectionState.NEW if self is ConnectionState.REGISTERING else self

    def reading(self) -> "ConnectionState":
        """The inbox is read from its beginning, or once more."""
        return self if self in _OUTSIDE else ConnectionState.READING

    def woken(self) -> "ConnectionState":
        """Something came for the client that is not handed over at once."""
        return ConnectionState.READING_AGAIN if self is ConnectionState.READING else self

    def read(self) -> "ConnectionState":
        """The inbox is empty; READING_AGAIN stays, since more has come meanwhile."""
        return ConnectionState.LIVE if self is ConnectionState.READING else self

    def missed(self) -> "ConnectionState":
        """Wake-ups may have been lost."""
        return ConnectionState.STALLED if self is ConnectionState.LIVE else self.woken()

    def failed(self) -> "ConnectionState":
        """The inbox could not be read."""
        return ConnectionState.STALLED if self in _REGISTERED else self

    def gone(self) -> "ConnectionState":
        """The client left, or another connection holds it."""
        return ConnectionState.GONE


_READS = frozenset({ConnectionState.READING, ConnectionState.READING_AGAIN})
_REGISTERED = _READS | {ConnectionState.LIVE, ConnectionState.STALLED}
_OUTSIDE = frozenset({ConnectionState.NEW, ConnectionState.GONE})
