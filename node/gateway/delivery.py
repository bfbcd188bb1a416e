"""From Redis to the socket: in order, at least once, and once as long as the socket lives.

Usually a wake-up brings the task or the message itself. When a client registers, and after the bus was away, what waits
is read instead, oldest first: sessions that nobody has begun, then the inbox. Wake-ups that arrive meanwhile only say
that there is more to read. An entry is removed from the inbox once it was handed to the socket, a session waits no more
once it has stored that it was begun; until Redis confirms that, the connection remembers them and skips them.
"""

import logging

from node.concurrency.background import Background
from node.connections.connection import Connection
from node.connections.connection_state import ConnectionState
from node.connections.hub import Hub
from node.gateway.transfers import Transfers
from node.sessions.resumption import Resumption
from node.sessions.runner import Runner
from node.sessions.task_spec import TaskSpec
from shared_state.errors import StateError, StateUnavailable
from shared_state.inbox import TASK, Entry, Inbox
from shared_state.quotas import TaskQuota
from shared_state.session_create import SessionCreator

__all__ = ["Deliverer"]

log = logging.getLogger(__name__)

FRAME = b"frame\n"
ENDED = b"ended\n"
SUPERSEDED = b"superseded\n"
END = b"end\n"
FILE = b"file\n"


class Deliverer:
    """Begins the sessions of this node's devices, and hands messages from its clients' inboxes to their sockets."""

    def __init__(
        self,
        inbox: Inbox,
        starts: SessionCreator,
        waiting: TaskQuota,
        hub: Hub,
        runner: Runner,
        resumption: Resumption,
        transfers: Transfers,
        background: Background,
    ) -> None:
        self._inbox = inbox
        self._starts = starts
        self._waiting = waiting
        self._hub = hub
        self._runner = runner
        self._resumption = resumption
        self._transfers = transfers
        self._background = background

    def on_wakeup(self, rest: bytes) -> None:
        """A frame `<client>\\n<entry>\\n<message>` from the bus; without an entry it says to look for what waits."""
        client_id, _, rest = rest.partition(b"\n")
        entry_id, _, message = rest.partition(b"\n")
        connection = self._hub.get(client_id.decode())
        if connection is None:
            return  # gone: it waits
        if not entry_id:
            self._background.spawn(self._look(connection), "inbox-look")
            return
        if connection.state is ConnectionState.LIVE:
            self._hand_over(connection, Entry(entry_id.decode(), message), verify=False)
        else:
            connection.state = connection.state.woken()

    def on_order(self, order_json: bytes) -> None:
        """The order of a session of a device that is here, or was a moment ago."""
        order = _read(order_json)
        connection = self._hub.get(order.client_id) if order is not None else None
        if order is None or connection is None:
            return  # gone: the session waits
        if connection.state is ConnectionState.LIVE:
            self._begin(connection, order, verify=False)
        else:
            connection.state = connection.state.woken()

    async def drain(self, connection: Connection) -> None:
        """Hand over all that waits for the client, then go live.

        Raises StateUnavailable; the connection is then stalled until `resume`.
        """
        if connection.state.reads:
            connection.state = connection.state.woken()
            return
        try:
            after = ""
            while connection.closing is None:
                connection.state = connection.state.reading()
                begun = []
                for waiting in await self._starts.waiting(connection.client_id, but=connection.taken):
                    if (order := _read(waiting)) is not None:
                        self._begin(connection, order, verify=True)
                        if order.mark in connection.taken:
                            begun.append(order.session_id)
                if begun:
                    self._background.spawn(self._no_longer_wait(connection.client_id, begun), "quota-free")
                entries = await self._inbox.read(connection.client_id, after=after)
                for entry in entries:
                    after = entry.entry_id
                    if await self._was_begun(connection, entry):
                        self._take_off(connection, entry)
                    elif connection.closing is None:
                        self._hand_over(connection, entry, verify=True)
                if not entries:
                    connection.state = connection.state.read()
                    if not connection.state.reads:
                        break
        except StateError:
            connection.state = connection.state.failed()
            raise

    async def _no_longer_wait(self, client_id: str, session_ids: list[str]) -> None:
        try:
            await self._waiting.free(client_id, session_ids)
        except StateError as exc:
            log.info("cannot update the count of waiting tasks", extra={"reason": str(exc)})

    async def drain_all(self) -> None:
        """The bus was away: look for what waits for every client here."""
        for connection in self._hub:
            # Marked before the first is read: should a reading fail, `resume` finds all the others.
            connection.state = connection.state.missed()
        try:
            await self.resume()
        except StateUnavailable as exc:
            log.warning("cannot read inboxes; retrying at the next renewal", extra={"reason": str(exc)})

    async def resume(self) -> None:
        """Drain those whose last drain failed. Raises StateUnavailable."""
        for connection in self._hub:
            if connection.state is ConnectionState.STALLED:
                await self.drain(connection)

    async def _look(self, connection: Connection) -> None:
        try:
            await self.drain(connection)
        except StateUnavailable as exc:
            log.warning("cannot read an inbox; retrying at the next renewal", extra={"reason": str(exc)})

    async def _was_begun(self, connection: Connection, entry: Entry) -> bool:
        """Whether it is a task that another socket took, and left in the inbox: it must not begin a second time."""
        known = entry.entry_id in connection.taken
        if known or not connection.is_device or not entry.message.startswith(TASK):
            return False
        try:
            order = TaskSpec.from_json(entry.message[len(TASK) :])
        except ValueError:
            return False  # found again, and logged, when it is handed over
        return await self._resumption.was_begun(connection, order)

    def _begin(self, connection: Connection, order: TaskSpec, *, verify: bool) -> None:
        if not connection.is_device:
            log.warning("ignored a task: the client is not a device", extra={"client_id": connection.client_id})
        elif (mark := order.mark) not in connection.taken and self._runner.accept(connection, order, verify=verify):
            connection.taken.add(mark)

    def _hand_over(self, connection: Connection, entry: Entry, *, verify: bool) -> None:
        fresh = entry.entry_id not in connection.taken
        connection.taken.add(entry.entry_id)
        if fresh:
            try:
                self._hand_to(connection, entry, verify=verify)
            except ValueError:
                # A node of another version may have left it: dropped, so that what is behind it arrives.
                log.exception("cannot parse a message in an inbox", extra={"client_id": connection.client_id})
        self._take_off(connection, entry)

    def _take_off(self, connection: Connection, entry: Entry) -> None:
        connection.handed.append(entry.entry_id)
        if not connection.confirming:
            connection.confirming = True
            self._background.spawn(self._confirm(connection), "inbox-take")

    def _hand_to(self, connection: Connection, entry: Entry, *, verify: bool) -> None:
        if entry.message.startswith(FRAME):
            connection.send_raw(entry.message[len(FRAME) :])
        elif entry.message.startswith(END):
            asked, made, end = entry.message[len(END) :].split(b"\n", 2)
            if connection.asked.take_end(asked.decode(), int(made)):
                connection.send_raw(end)
        elif entry.message.startswith((ENDED, SUPERSEDED, FILE)) and not connection.is_device:
            log.warning("ignored a message: the client is not a device", extra={"client_id": connection.client_id})
        elif entry.message.startswith(TASK):
            self._begin(connection, TaskSpec.from_json(entry.message[len(TASK) :]), verify=verify)
        elif entry.message.startswith(ENDED):
            session_id, created_ms = _ended(entry.message[len(ENDED) :])
            ended = self._runner.on_ended_elsewhere(session_id, connection, created_ms)
            self._background.spawn(ended, "ended-elsewhere")
        elif entry.message.startswith(SUPERSEDED):
            # At once: the task that follows is of the same id.
            session_id, created_ms = _ended(entry.message[len(SUPERSEDED) :])
            self._runner.on_superseded(connection, session_id, created_ms)
        elif entry.message.startswith(FILE):
            session_id, _, name = entry.message[len(FILE) :].decode().partition("\n")
            self._background.spawn(self._transfers.send(connection, session_id, name), "file-send")
        else:
            log.error("ignored a message of unknown kind in an inbox", extra={"client_id": connection.client_id})

    async def _confirm(self, connection: Connection) -> None:
        """Remove from the inbox what the peer has, in batches; what it may not have stays for its next socket."""
        try:
            while connection.handed:
                batch, connection.handed = connection.handed, []
                await connection.flushed()
                # What was written into a socket may never have left it. A device's session is resumed from its journal;
                # of a message to any other client nobody hears again: it is removed once a pong has come behind it.
                if not connection.is_device and not await connection.keepalive.answers():
                    return
                if connection.closing is not None:
                    return
                try:
                    await self._inbox.take(connection.client_id, *batch)
                except StateUnavailable:
                    # Still in the stream: the next drain finds it, skips it, and removes it.
                    connection.state = connection.state.missed()
                    return
                connection.taken.difference_update(batch)
        finally:
            connection.confirming = False


def _ended(rest: bytes) -> tuple[str, int]:
    """The session that a message is about, and when it was created, ms."""
    session_id, _, created_ms = rest.decode().partition("\n")
    return session_id, int(created_ms)


def _read(order_json: bytes) -> TaskSpec | None:
    try:
        return TaskSpec.from_json(order_json)
    except ValueError:
        # A node of another version may have stored it: left to its deadline.
        log.exception("cannot parse a task")
        return None
