"""Messages for a client, kept until its socket has taken them.

(A task that the cluster gave its id needs none: it is read from its session, see `SessionCreator`.)

`post` appends to the client's stream and wakes, through pub/sub, the node that holds its socket, in one atomic call.
Delivery is at least once: an entry stays until `take`, and whoever holds the client's socket next reads what is left,
in order. The wake-up carries the message, so that the usual way costs no read (in a Redis Cluster it only says that
there is something to read); it may be lost (a subscriber that reconnects, a node that dies), the entry is not. Bounded
in length (`InboxFull`) and in age.
"""

from dataclasses import dataclass
from typing import NamedTuple

from shared_state.errors import InboxFull, NotRegistered, TooManySessions
from shared_state.keys import Keys, live_together
from shared_state.publisher import Publisher
from shared_state.redis.connection import Connection
from shared_state.session_record import Session, order_json

__all__ = [
    "TASK",
    "Entry",
    "Inbox",
    "Posted",
    "SessionRef",
    "check_posted",
    "task_message",
]

INBOX_LIFE_S = 3_600
INBOX_BOUND = 1_000
READ = 100
# Longer than any call is repeated.
MARK_LIFE_MS = 60_000
# What the message that starts a session begins with; its order follows.
TASK = b"task\n"


class Entry(NamedTuple):
    """A message that waits: its place in the stream, and its bytes."""

    entry_id: str
    message: bytes


class Posted(NamedTuple):
    """Where a message went: the node that holds the client ('' if none does now), and how many heard the wake-up."""

    node_id: str
    entry_id: str
    receivers: int


@dataclass(frozen=True, slots=True)
class SessionRef:
    """The session that a message starts: noted as active on the client, so that its end can be settled by anybody."""

    session_id: str
    deadline_ms: int
    created_ms: int

    @property
    def span_s(self) -> float:
        """From its creation to its deadline."""
        return (self.deadline_ms - self.created_ms) / 1000


class Inbox:
    """The inboxes of all clients."""

    def __init__(self, connection: Connection, keys: Keys, *, result_ttl_s: int, max_sessions: int = 64) -> None:
        self._redis = connection
        self._voice = Publisher(connection, keys)
        self._keys = keys
        self._result_ttl_s = result_ttl_s
        self._max_sessions = max_sessions

    async def post(
        self,
        client_id: str,
        message: bytes,
        *,
        session: SessionRef | None = None,
        message_id: str = "",
        wait_s: float = 0.0,
        durable: bool = False,
    ) -> Posted:
        """Leave `message` for a client that is registered or away, and wake its node.

        With `session` or `message_id` safe to repeat. With `wait_s` the message waits for that long for a client that
        nobody knows, too. Raises NotRegistered, InboxFull or TooManySessions (nothing is stored), or StateUnavailable.
        If the call is cancelled, or Redis breaks in its midst, the message may be stored: receivers drop what they have
        seen. `durable`: as for `Connection.command`.
        """
        k = self._keys
        tail: list[str | int]
        if session is None:
            tail = ["", 0, "", 0, MARK_LIFE_MS if message_id else ""]
        else:
            life_ms = int((session.span_s + self._result_ttl_s) * 1000)
            tail = [session.session_id, session.deadline_ms, _member(session), life_ms, ""]
        reply = await self._redis.script(
            "inbox_post",
            [
                k.registration(client_id),
                k.inbox(client_id),
                k.active(client_id),
                k.client_sessions(client_id),
                k.posted(client_id, message_id),
            ],
            [
                *(client_id, message, INBOX_BOUND, int(max(INBOX_LIFE_S, wait_s) * 1000), self._voice.script_prefix),
                *tail,
                "1" if wait_s > 0 else "",
                *(self._max_sessions, session.created_ms if session is not None else 0),
            ],
            durable=durable,
        )
        check_posted(reply[0], client_id, self._max_sessions)
        node_id, entry_id, receivers = reply[1].decode(), reply[2].decode(), int(reply[3])
        if node_id and not self._voice.script_prefix:
            # Only that there is something: wake-ups that are not said in the script that stored the message may
            # overtake each other, and come after the inbox was read for another reason. Also when it was posted
            # before: the wake-up of that time may not have been said.
            receivers = await self._voice.tell(node_id, "inbox", client_id, "", "")
        elif node_id:
            self._voice.note("inbox", receivers)
        return Posted(node_id, entry_id, receivers)

    async def read(self, client_id: str, *, after: str = "") -> list[Entry]:
        """The oldest 100 messages that wait, in order; with `after`, those behind that entry."""
        start = f"({after}" if after else "-"
        reply = await self._redis.command("XRANGE", self._keys.inbox(client_id), start, "+", "COUNT", READ)
        return [Entry(entry_id.decode(), fields[b"m"]) for entry_id, fields in reply]

    async def take(self, client_id: str, *entry_ids: str) -> None:
        """Remove messages that the socket has taken. Safe to repeat."""
        await self._redis.command("XDEL", self._keys.inbox(client_id), *entry_ids)

    async def wake(self, client_id: str) -> None:
        """Have the node that holds the client look for what waits, if one does. Raises StateUnavailable."""
        node_id = await self._redis.command("HGET", self._keys.registration(client_id), "node_id")
        if node_id:
            await self._voice.tell(node_id.decode(), "inbox", client_id, "", "")

    async def unpost(self, client_id: str, session: SessionRef) -> None:
        """Forget that the session was ever started on the client, so that it may be posted again. Safe to repeat."""
        # As its start listed it, or as a post did.
        entry = session.session_id if live_together(session.session_id, client_id) else _member(session)
        listed = self._redis.command("LREM", self._keys.client_sessions(client_id), -1, entry)
        await self.settle(client_id, session.session_id)
        await listed

    async def settle(self, client_id: str, session_id: str) -> None:
        """Note that a session on the client has ended. Safe to repeat."""
        await self._redis.command("ZREM", self._keys.active(client_id), session_id)


def check_posted(code: int, client_id: str, max_sessions: int) -> None:
    """What the script of a post, or of a start, says first. Raises NotRegistered, InboxFull or TooManySessions."""
    if code == -5:
        raise NotRegistered(f"Client '{client_id}' is not online")
    if code == -1:
        raise InboxFull(f"Client '{client_id}' has {INBOX_BOUND} messages waiting")
    if code == -2:
        raise TooManySessions(
            f"Device '{client_id}' has {max_sessions} sessions under way, as many as it may (max_sessions_per_device)",
            of_device=True,
        )


def task_message(session: Session) -> bytes:
    """The message that starts a session."""
    return TASK + order_json(session)


def _member(session: SessionRef) -> str:
    """Where a session stands among its client's newest."""
    return f"{session.created_ms:015d}:{session.session_id}"
