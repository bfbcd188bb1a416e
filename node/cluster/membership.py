"""The node among nodes: its lease, and what is done regularly as long as it stands.

Every `lease_renew_s` the lease is renewed. A lease found gone means that this node was away too long, or that Redis
lost its data: every registration is claimed anew. Once a second, with the lease, the node also does its share of what
is to be done for the whole cluster: settling nodes that died (`reaper`), and ending what is over (`timers`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from node.cluster.reaper import Reaper
from node.cluster.timers import Expiry
from node.gateway.delivery import Deliverer
from node.gateway.disconnect import Disconnect
from node.gateway.registration_upkeep import RegistrationUpkeep
from node.sessions.resumption import Resumption
from node.sessions.runner import Runner
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.errors import StateError, StateUnavailable
from shared_state.nodes import Lease

__all__ = ["Membership"]

log = logging.getLogger(__name__)

SIGNS_OF_LIFE_EVERY_S = 5.0
KEEP_ALIVE_EVERY_S = 300.0


class Membership:
    """Keeps this node a member, and removes those that are none any more.

    Two tasks, owned by `start`: one does nothing but renew, so that no amount of other work lets the lease run out; the
    other does what a renewal found to be done.
    """

    def __init__(
        self,
        state: State,
        upkeep: RegistrationUpkeep,
        disconnect: Disconnect,
        deliverer: Deliverer,
        resumption: Resumption,
        runner: Runner,
        reaper: Reaper,
        expiry: Expiry,
        metrics: Metrics,
        *,
        node_id: str,
        renew_s: float,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        self._state = state
        self._upkeep = upkeep
        self._disconnect = disconnect
        self._deliverer = deliverer
        self._resumption = resumption
        self._runner = runner
        self._reaper = reaper
        self._expiry = expiry
        self._metrics = metrics
        self._node_id = node_id
        self._renew_s = renew_s
        self._describe = describe
        self._tasks: list[asyncio.Task[None]] = []
        self._lease: Lease | None = None
        self._renewed = asyncio.Event()
        self._to_claim = False
        self._to_compare = False
        self._held_since: float | None = None
        self._renewed_at: float | None = None

    @property
    def is_member(self) -> bool:
        """Whether the lease stands, as far as this node can know."""
        return self._renewed_at is not None and time.monotonic() - self._renewed_at < self._state.nodes.lease_ttl_s

    @property
    def reports(self) -> bool:
        """Whether this node speaks for the cluster: of the nodes alive at the last renewal, its id sorts first.

        Nobody has to be asked for it. Where a node has come or gone, two nodes or none may do so until each has renewed
        its lease once more.
        """
        return self.is_member and self._lease is not None and self._node_id == min(self._lease.live, default="")

    async def start(self) -> None:
        """Try to become a member, and go on being one in the background; Redis may be away at start."""
        await self._renew()
        self._tasks = [
            asyncio.create_task(self._renewing(), name="lease"),
            asyncio.create_task(self._keep_up(), name="upkeep"),
        ]

    async def close(self) -> None:
        """Stop renewing, and give the lease up; unless somebody is left to settle: then the reaper is to find it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if not self._disconnect.settled:
            log.warning("some clients are not settled; leaving the lease to expire")
            return
        try:
            await self._state.nodes.release(self._node_id)
            await self._state.clients.drop_node_list(self._node_id)
        except StateError as exc:
            log.warning("cannot release the lease; it will expire", extra={"reason": str(exc)})
        self._renewed_at = None

    def compare_soon(self) -> None:
        """The bus was away: whoever was taken over meanwhile is to give way. Done as soon as Redis answers."""
        self._to_compare = True
        self._renewed.set()

    # -- the lease -------------------------------------------------------------------------------------------------
    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            await self._renew()

    async def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            lease = await self._state.nodes.renew(self._node_id, self._describe())
        except StateError as exc:
            self._held_since = None
            self._metrics.lease_renewals["failed"].inc()
            log.warning("cannot renew the lease", extra={"reason": str(exc)})
            return
        self._metrics.lease_renewals["renewed"].inc()
        if not lease.held or self._held_since is None:
            self._held_since = asked_at
        if not lease.held and self._renewed_at is not None:
            self._metrics.leases_lost.inc()
            self._to_claim = True
        # Counted from before the call: the lease in Redis cannot have begun earlier than that.
        self._renewed_at = asked_at
        self._lease = lease
        self._renewed.set()

    # -- what depends on it ----------------------------------------------------------------------------------------
    async def _keep_up(self) -> None:
        next_signs = time.monotonic() + SIGNS_OF_LIFE_EVERY_S
        next_touch = time.monotonic() + KEEP_ALIVE_EVERY_S
        while True:
            await self._renewed.wait()
            self._renewed.clear()
            try:
                if self._to_claim:
                    log.warning("the lease had expired; registering every client again")
                    await self._upkeep.claim_again()
                    await self._runner.look_again()
                    self._to_claim = False
                if self._to_compare:
                    await self._upkeep.compare()
                    self._to_compare = False
                await self._deliverer.resume()
                await self._resumption.resume_postponed()
                if time.monotonic() >= next_signs:
                    next_signs = time.monotonic() + SIGNS_OF_LIFE_EVERY_S
                    await self._upkeep.note_signs_of_life()
                if time.monotonic() >= next_touch:
                    next_touch = time.monotonic() + KEEP_ALIVE_EVERY_S
                    await self._upkeep.keep_alive()
                if self._lease is not None and self._lease.dead and self._may_reap():
                    await self._reaper.reap(self._lease.dead)
                await self._expiry.run_once()
            except StateUnavailable as exc:
                log.warning("registration upkeep postponed", extra={"reason": str(exc)})
            except Exception:
                log.exception("registration upkeep failed")

    def _may_reap(self) -> bool:
        held_since = self._held_since
        return held_since is not None and time.monotonic() - held_since >= self._state.nodes.lease_ttl_s
