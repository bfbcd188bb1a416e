"""A node, put together: one object that owns every part, and the ASGI application in front of it.

Start: lease, bus, then traffic; Redis may be away, the node is then alive and not ready. Stop: the node is drained,
then nothing new is taken, sockets that are left are closed (by uvicorn, with 1012), what they held is given up, the
lease last.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp

from aip.ids import now_ms
from node.bus_frames import BusFrames
from node.drain import Drainer
from node.gateway.entrance import Entrance
from node.membership import Membership
from node.overview import counts
from node.parts import ApiParts, GatewayParts, Ground, SessionParts
from node.proxies import behind_proxies
from node.reaper import Reaper
from node.settings import Settings
from node.telemetry.lag import LoopLag
from node.telemetry.metrics import package_version

__all__ = ["Node"]

log = logging.getLogger(__name__)

BUS_WAIT_S = 2.0
BACKGROUND_GRACE_S = 2.0


class Node:
    """One node. `app` is its ASGI application; its lifespan starts and stops the node.

    Raises ValueError if a setting cannot be met.
    """

    def __init__(self, settings: Settings) -> None:
        self._started_ms = now_ms()
        ground = Ground(settings)
        self.settings, self.node_id = settings, ground.node_id
        self.metrics, self.tracing, self.proxies = ground.metrics, ground.tracing, ground.proxies
        self.state, self.bus = ground.state, ground.bus
        self._background = ground.background
        self._lag = LoopLag(self.metrics.loop_lag.observe)
        self.sessions = SessionParts(ground)
        # A circle: the gateway asks whether the node is a member, membership tells whether it drains, the drain shuts
        # the gateway. So these three are given calls into the node, not each other.
        self.gateway = GatewayParts(ground, self.sessions, is_member=lambda: self.membership.is_member)
        self.membership = self._membership()
        self.drainer = Drainer(
            self.gateway.hub,
            self.sessions.runner,
            self.metrics,
            rate_per_s=settings.drain_rate_per_s,
            deadline_s=settings.drain_deadline_s,
            let_go=self._let_go,
            take_again=self._take_again,
        )
        self.api = ApiParts(ground, self.sessions, self.gateway, self.membership, self.drainer, lifespan=self._lifespan)
        self.app: ASGIApp = Entrance(behind_proxies(self.gateway.endpoint), self.api.rest)

    def _membership(self) -> Membership:
        gateway, sessions, settings = self.gateway, self.sessions, self.settings
        reaper = Reaper(
            self.state, sessions.departures, self.metrics, node_id=self.node_id, grace_s=settings.reconnect_grace_s
        )
        return Membership(
            self.state,
            gateway.holding,
            gateway.leaving,
            gateway.deliverer,
            sessions.resumption,
            sessions.runner,
            reaper,
            sessions.expiry,
            self.metrics,
            node_id=self.node_id,
            renew_s=settings.lease_renew_s,
            describe=self._describe,
        )

    # -- life ------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Join the cluster. Does not fail when Redis is away; raises OSError if the internal port is taken."""
        if self.api.internal is not None:
            await self.api.internal.start()
        self._lag.start()
        frames = self._bus_frames()
        await self.bus.start(on_frame=frames.on_frame, on_gap=frames.on_gap, wait_s=BUS_WAIT_S)
        await self.membership.start()
        self.state.events.start()
        if self.settings.redis_url != "embedded://":
            self.state.memory.start()
        self._background.spawn(self.state.check_servers(), "server-check")
        # What lives from now until the end is not worth walking through at every collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        log.info("node started", extra={"node_id": self.node_id, "version": package_version()})

    def _bus_frames(self) -> BusFrames:
        gateway, sessions = self.gateway, self.sessions
        return BusFrames(
            gateway.deliverer,
            sessions.waiters,
            sessions.followers,
            gateway.probes,
            sessions.loads,
            gateway.leaving,
            self.membership,
            self._background,
            self.metrics,
        )

    def _let_go(self) -> None:
        """A drain begins: no new sockets, and nobody is held who only waits."""
        self.gateway.endpoint.draining = True
        self.sessions.waiters.let_go()
        self.sessions.followers.let_go()

    def _take_again(self) -> None:
        self.gateway.endpoint.draining = False
        self.sessions.waiters.take_again()
        self.sessions.followers.take_again()

    def begin_stop(self) -> None:
        """Take nothing new, and let go of requests that only wait. Sockets go next."""
        self.gateway.endpoint.draining = True
        self.gateway.leaving.stopping = True
        self.sessions.waiters.stop()
        self.sessions.followers.stop()

    async def stop(self) -> None:
        """Give up what is left, the lease last."""
        self.begin_stop()
        await self.drainer.close()
        # What Redis did not take goes on in the background.
        with suppress(TimeoutError):
            async with asyncio.timeout(BACKGROUND_GRACE_S):
                await self.state.ends.flush()
        await self._background.close(grace_s=BACKGROUND_GRACE_S)
        await self.sessions.planners.close()
        await self.bus.close()
        await self.membership.close()
        await self.state.close()
        if self.tracing is not None:
            await self.tracing.close()
        self._lag.close()
        if self.api.internal is not None:
            await self.api.internal.close()
        log.info("node stopped", extra={"node_id": self.node_id})

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:  # noqa: ARG002
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    def _describe(self) -> dict[str, Any]:
        hub, runner = self.gateway.hub, self.sessions.runner
        return {
            "url": f"http://{self.settings.bind_host}:{self.settings.port}",
            "version": package_version(),
            "started_ms": self._started_ms,
            "connections": len(hub),
            "sessions": len(runner),
            "draining": self.drainer.active,
            **counts(hub, runner),
        }
