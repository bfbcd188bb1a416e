"""Who may have a client id that is held already.

A newcomer that shows the resume token takes over at once, decided in Redis. For any other the node that holds the
socket is asked, over the bus, whether somebody is there: it pings the socket. A socket that is silent for 5 s gives
way; one that answers keeps the id, whatever the newcomer knows: a key that many clients share proves nothing. Where the
node does not hear the question, or does not answer it, its lease tells: one that is renewed is of a living node, which
may be deaf for a moment, and whose sockets live.

The socket that lost is closed by its own node, told over the bus; if that word is lost, the node finds out by itself
when it looks behind the gap.
"""

import asyncio
import logging

from aip_cluster.protocol import new_id
from node.concurrency.background import Background
from node.connections.connection import Connection
from node.connections.hub import Hub
from shared_state.bus import Bus
from shared_state.errors import AlreadyRegistered, StateError
from shared_state.nodes import Nodes

__all__ = ["Probes", "beats"]

log = logging.getLogger(__name__)

# A device that is busy still answers pings: clients do that beside their work. Longer than a machine stalls as a rule,
# and shorter than UFO's client waits between its last attempts to come back.
SILENCE_S = 5.0
# The other node's answer travels, too.
ANSWER_S = SILENCE_S + 0.5
# A living node has renewed its lease by then.
RENEWALS = 2.5
LOOK_S = 0.1


class Probes:
    """Asks after sockets, here and on other nodes, and answers for those of this node."""

    def __init__(
        self, bus: Bus, nodes: Nodes, hub: Hub, background: Background, node_id: str, *, lease_renew_s: float
    ) -> None:
        self._bus = bus
        self._nodes = nodes
        self._lease_renew_s = lease_renew_s
        self._hub = hub
        self._background = background
        self._node_id = node_id
        # As many as there are sockets registering, each for 5.5 s at most.
        self._asked: dict[str, asyncio.Future[bool]] = {}

    async def is_alive(self, client_id: str, holder: AlreadyRegistered) -> bool:
        """Whether the socket that holds the client answers. Raises StateUnavailable; cancelling is safe."""
        if holder.node_id == self._node_id:
            return await self._look(client_id, holder.connection_id)
        lease_ends_ms = await self._nodes.lease_ends_ms(holder.node_id)
        probe_id = new_id()
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked[probe_id] = answer
        try:
            fields = (client_id, holder.connection_id, self._node_id, probe_id)
            if await self._bus.tell(holder.node_id, "probe", *fields) == 0:
                # Its node is not there, or deaf.
                return await self._is_renewed(holder.node_id, lease_ends_ms, within_s=RENEWALS * self._lease_renew_s)
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            log.warning("the node that holds the client does not answer", extra={"holder": holder.node_id})
            return await self._is_renewed(holder.node_id, lease_ends_ms, within_s=0)
        finally:
            del self._asked[probe_id]

    async def _is_renewed(self, node_id: str, ended_ms: int | None, *, within_s: float) -> bool:
        """Whether a node has renewed its lease, which was to end at `ended_ms`, since; or does so in that time."""
        deadline = asyncio.get_running_loop().time() + within_s
        while ended_ms is not None:
            ends_ms = await self._nodes.lease_ends_ms(node_id)
            if ends_ms is None or ends_ms != ended_ms:
                return ends_ms is not None
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(LOOK_S)
        return False

    async def _look(self, client_id: str, connection_id: str) -> bool:
        connection = self._hub.get(client_id)
        if connection is None or connection.connection_id != connection_id or connection.closing is not None:
            return False
        return await beats(connection)

    # -- what other nodes say ----------------------------------------------------------------------------------------
    def on_probe(self, rest: bytes) -> None:
        """A frame `<client>\\n<connection>\\n<node that asks>\\n<probe>`."""
        client_id, connection_id, asker, probe_id = rest.decode().split("\n")
        self._background.spawn(self._answer(client_id, connection_id, asker, probe_id), "probe")

    async def _answer(self, client_id: str, connection_id: str, asker: str, probe_id: str) -> None:
        connection = self._hub.get(client_id)
        if connection is None or connection.connection_id != connection_id:
            # It may be registering now: stored already, and not yet to be found here.
            async with self._hub.lock(client_id):
                pass
        alive = await self._look(client_id, connection_id)
        try:
            await self._bus.tell(asker, "probed", probe_id, "1" if alive else "0")
        except StateError as exc:
            log.warning("cannot answer a probe", extra={"reason": str(exc)})

    def on_probed(self, rest: bytes) -> None:
        """A frame `<probe>\\n<1 or 0>`."""
        probe_id, _, alive = rest.decode().partition("\n")
        future = self._asked.get(probe_id)
        if future is not None and not future.done():
            future.set_result(alive == "1")


async def beats(connection: Connection) -> bool:
    """Whether the peer shows any sign of life within 5 s of being asked for one."""
    heard_ms = connection.last_seen_ms
    return await connection.keepalive.beats(SILENCE_S) or connection.last_seen_ms != heard_ms
