"""Why a socket is closed: codes and reasons, in one place.

1013 is of RFC 6455's registry (try again later), as is 1012 (service restart), which uvicorn too sends at a stop.
Codes of 4000 and above are this project's: up to 4099 it is worth coming back after mending what the reason says, from
4100 at once; after 4102 only if no other process uses the same id, after 4103 more quietly.
"""

from enum import Enum
from typing import NamedTuple

__all__ = ["RESTART", "TOO_BIG", "UNANSWERED", "Close", "CloseReason"]


# Of RFC 6455's registry, with a reason that names the bound.
TOO_BIG = 1009
# No pong came in time.
UNANSWERED = 1011
# The server stops.
RESTART = 1012


class CloseReason(NamedTuple):
    """What goes into the close frame; `label` is its name in the metrics."""

    code: int
    text: str
    label: str


class Close(Enum):
    """Every close that this node may begin."""

    RESTARTING = CloseReason(RESTART, "the node is being emptied, reconnect to another", "drained")
    UNAVAILABLE = CloseReason(1013, "the cluster cannot serve you now, try again later", "unavailable")
    NOT_REGISTERED_IN_TIME = CloseReason(4001, "no registration in time", "register_timeout")
    BAD_REGISTRATION = CloseReason(4002, "the registration was refused", "bad_registration")
    DUPLICATE_ID = CloseReason(4009, "the client id is already registered", "duplicate_id")
    SLOW_CONSUMER = CloseReason(4100, "too slow in reading, reconnect", "slow_consumer")
    TAKEN_OVER = CloseReason(4102, "another connection of this client id took over", "taken_over")
    LOST_REGISTRATION = CloseReason(4101, "the registration was lost, reconnect", "lost_registration")
    TOO_MANY_MESSAGES = CloseReason(4103, "too many messages for too long, slow down", "too_many_messages")
    MESSAGE_TOO_SLOW = CloseReason(4104, "a large message took too long to arrive, reconnect", "message_too_slow")
