"""A node, put together: one object that owns every part, and the ASGI application in front of it.

Start: lease, bus, then traffic; Redis may be away, the node is then alive and not ready. Stop: the node is drained,
then nothing new is taken, sockets that are left are closed (by uvicorn, with 1012), what they held is given up, the
lease last.
"""

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp

from aip.ids import now_ms
from node.api.context import Context
from node.api.limits import Limits
from node.api.middleware import Shell
from node.api.router import application, internal_application
from node.auth import Auth
from node.background import Background
from node.devices import DeviceNotes
from node.drain import Drainer
from node.gateway.admission import Admission
from node.gateway.delivery import Deliverer
from node.gateway.endpoint import Endpoint
from node.gateway.entrance import Entrance
from node.gateway.handlers import Handlers
from node.gateway.holding import Holding
from node.gateway.hub import Hub
from node.gateway.leaving import Leaving
from node.gateway.registrar import Registrar
from node.gateway.takeover import Probes
from node.gateway.tasks import TaskIntake
from node.gateway.transfers import Transfers
from node.internal import InternalPort
from node.membership import Membership
from node.overview import Overview, counts
from node.proxies import behind_proxies
from node.reaper import Reaper
from node.sessions.batches import BatchRunner
from node.sessions.departures import Departures
from node.sessions.dispatching import Dispatcher
from node.sessions.expiry import Expiry
from node.sessions.loads import NodeLoads
from node.sessions.planners import Planners
from node.sessions.resumption import Resumption
from node.sessions.runner import Runner
from node.sessions.secrets import ToolSecrets
from node.sessions.service import SessionService
from node.sessions.stages import Stages
from node.sessions.toolbelt import Toolbelt
from node.sessions.traced import TracedDispatcher
from node.sessions.waiters import Waiters
from node.settings import Settings
from node.telemetry.lag import LoopLag
from node.telemetry.metrics import Metrics, package_version
from node.telemetry.readings import NodeCollector
from node.telemetry.tracing import tracing_for
from shared_state import State

__all__ = ["Node"]

log = logging.getLogger(__name__)

BUS_WAIT_S = 2.0
BACKGROUND_GRACE_S = 2.0


class Node:
    """One node. `app` is its ASGI application; its lifespan starts and stops the node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Unique per start: what an earlier process of this name held is void, whatever it held.
        self.node_id = f"{settings.node_id}.{secrets.token_hex(3)}"
        self.metrics = Metrics()
        self.tracing = tracing_for(settings, self.node_id)
        self.state = State(
            settings.full_redis_url,
            prefix=settings.key_prefix,
            lease_ttl_s=settings.lease_ttl_s,
            result_ttl_s=settings.result_ttl_s,
            idempotency_ttl_s=settings.idempotency_ttl_s,
            max_sessions_per_device=settings.max_sessions_per_device,
            timeout_s=settings.redis_timeout_s,
            min_replicas=settings.min_replicas,
            replica_wait_ms=settings.replica_wait_ms,
            observer=self.metrics.observe_redis,
            on_said=self.metrics.frame_said,
        )
        self._started_ms = now_ms()
        self._waiters = Waiters()
        self._followers = Waiters()
        self._background = Background()
        self.hub = Hub(self.metrics)
        self.bus = self.state.bus(
            self.node_id,
            probe_interval_s=settings.probe_interval_s,
            deaf_after_s=settings.deaf_after_s,
            observer=self.metrics,
        )
        self._planners = Planners(settings)
        loads = NodeLoads(
            self.state.nodes,
            self._background,
            node_id=self.node_id,
            own_sessions=lambda: len(self.runner),
            most=settings.max_sessions_per_node,
        )
        if self.tracing is None:
            self._dispatcher = Dispatcher(self.state, self._planners, loads, self.metrics)
        else:
            self._dispatcher = TracedDispatcher(self.state, self._planners, loads, self.metrics, self.tracing)
        self.service = SessionService(self.state, self.metrics, self._waiters, self.node_id)
        secrets_of_tools = ToolSecrets(settings.tool_secrets)
        self.runner = Runner(
            self.state,
            self.service,
            self.metrics,
            self._background,
            self._planners,
            Toolbelt(secrets_of_tools, timeout_s=settings.tools_timeout_s),
            secrets_of_tools,
            node_id=self.node_id,
            echo_wait_s=settings.echo_wait_s,
            platform=settings.platform,
            stages=partial(Stages, self.metrics, self.tracing),
        )
        transfers = Transfers(self.state, self.runner, max_file_bytes=settings.max_file_bytes)
        grace_s = settings.reconnect_grace_s
        resumption = Resumption(
            self.state,
            self.runner,
            self.service,
            self._planners,
            self._background,
            node_id=self.node_id,
            grace_s=grace_s,
        )
        self._deliverer = Deliverer(self.state.inbox, self.hub, self.runner, resumption, transfers, self._background)
        departures = Departures(self.state, self.service, self._planners, self.node_id)
        self._leaving = Leaving(self.state, self.hub, self.runner, departures, node_id=self.node_id, grace_s=grace_s)
        self._holding = Holding(self.state, self.hub, self._leaving, node_id=self.node_id)
        self._probes = Probes(self.bus, self.hub, self._background, self.node_id)
        registrar = Registrar(
            self.state,
            self.bus,
            self.hub,
            self._deliverer,
            self._probes,
            self._leaving,
            resumption,
            self.metrics,
            node_id=self.node_id,
        )
        self.membership = Membership(
            self.state,
            self._holding,
            self._leaving,
            self._deliverer,
            resumption,
            self.runner,
            Reaper(self.state, departures, self.metrics, node_id=self.node_id, grace_s=grace_s),
            Expiry(self.state, departures, self.service),
            self.metrics,
            node_id=self.node_id,
            renew_s=settings.lease_renew_s,
            describe=self._describe,
        )
        devices = DeviceNotes(settings.devices_config)
        auth = Auth(settings.api_key)
        tasks = TaskIntake(self.runner, self._dispatcher, self.service, self._planners, self.metrics, settings)
        handlers = Handlers(self.state, registrar, self.runner, tasks, devices)
        admission = Admission(
            self.metrics,
            rate_per_s=settings.connect_rate_per_s,
            burst=settings.connect_burst,
            max_connections=settings.max_connections,
            max_unregistered=settings.max_unregistered,
            max_registering=settings.max_registering,
        )
        self._endpoint = Endpoint(
            registrar,
            self._leaving,
            handlers,
            transfers,
            auth,
            self.metrics,
            self._background,
            admission,
            is_member=lambda: self.membership.is_member,
            allowed_origins=frozenset(o.strip() for o in settings.allowed_origins.split(",") if o.strip()),
            register_timeout_s=settings.register_timeout_s,
            send_queue_bytes=settings.send_queue_bytes,
        )
        self.drainer = Drainer(
            self.hub,
            self.runner,
            self.metrics,
            rate_per_s=settings.drain_rate_per_s,
            deadline_s=settings.drain_deadline_s,
            let_go=self._let_go,
            take_again=self._take_again,
        )
        self.limits = Limits(self.metrics, max_requests=settings.max_requests, max_waiters=settings.max_waiters)
        streams = asyncio.Semaphore(settings.max_event_streams)
        self.overview = Overview(
            settings,
            self.state,
            self.bus,
            self.hub,
            self.runner,
            self.limits,
            admission,
            self.membership,
            self.drainer,
            self._background,
            streams,
        )
        NodeCollector(self.metrics.registry, self.overview.read)
        self._lag = LoopLag(self.metrics.loop_lag.observe)
        context = Context(
            settings=settings,
            node_id=self.node_id,
            state=self.state,
            bus=self.bus,
            hub=self.hub,
            dispatcher=self._dispatcher,
            service=self.service,
            membership=self.membership,
            auth=auth,
            planners=self._planners,
            batches=BatchRunner(self.state, self._dispatcher, self.service, self._background, self.node_id),
            devices=devices,
            metrics=self.metrics,
            overview=self.overview,
            drainer=self.drainer,
            followers=self._followers,
            limits=self.limits,
            streams=streams,
        )
        rest = Shell(
            application(context, self._lifespan),
            auth,
            self.limits,
            self.metrics,
            self.tracing,
            lambda: self.drainer.active,
        )
        self.app: ASGIApp = Entrance(behind_proxies(self._endpoint), rest)
        self._internal: InternalPort | None = None
        if settings.metrics_port:
            self._internal = InternalPort(
                internal_application(context), host=settings.bind_host, port=settings.metrics_port
            )

    # -- life ------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Join the cluster. Does not fail when Redis is away; raises OSError if the internal port is taken."""
        if self._internal is not None:
            await self._internal.start()
        self._lag.start()
        await self.bus.start(on_frame=self._on_frame, on_gap=self._on_gap, wait_s=BUS_WAIT_S)
        await self.membership.start()
        self.state.events.start()
        self._background.spawn(self.state.check_servers(), "server-check")
        # What lives from now until the end is not worth walking through at every collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        log.info("node started", extra={"node_id": self.node_id, "version": package_version()})

    def _let_go(self) -> None:
        """A drain begins: no new sockets, and nobody is held who only waits."""
        self._endpoint.draining = True
        self._waiters.let_go()
        self._followers.let_go()

    def _take_again(self) -> None:
        self._endpoint.draining = False
        self._waiters.take_again()
        self._followers.take_again()

    def begin_stop(self) -> None:
        """Take nothing new, and let go of requests that only wait. Sockets go next."""
        self._endpoint.draining = True
        self._leaving.stopping = True
        self._waiters.stop()
        self._followers.stop()

    async def stop(self) -> None:
        """Give up what is left, the lease last."""
        self.begin_stop()
        await self.drainer.close()
        await self._background.close(grace_s=BACKGROUND_GRACE_S)
        await self._planners.close()
        await self.bus.close()
        await self.membership.close()
        await self.state.close()
        if self.tracing is not None:
            await self.tracing.close()
        self._lag.close()
        if self._internal is not None:
            await self._internal.close()
        log.info("node stopped", extra={"node_id": self.node_id})

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:  # noqa: ARG002
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    def _describe(self) -> dict[str, Any]:
        return {
            "url": f"http://{self.settings.bind_host}:{self.settings.port}",
            "version": package_version(),
            "started_ms": self._started_ms,
            "connections": len(self.hub),
            "sessions": len(self.runner),
            "draining": self.drainer.active,
            **counts(self.hub, self.runner),
        }

    # -- the bus ---------------------------------------------------------------------------------------------------
    def _on_frame(self, kind: bytes, rest: bytes) -> None:
        if kind == b"inbox":
            self.metrics.frames_heard["inbox"].inc()
            self._deliverer.on_wakeup(rest)
        elif kind == b"ended":
            self.metrics.frames_heard["ended"].inc()
            self._waiters.wake(rest.decode())
        elif kind == b"event":
            self.metrics.frames_heard["event"].inc()
            self._followers.wake(rest.decode())
        elif kind == b"probe":
            self.metrics.frames_heard["probe"].inc()
            self._probes.on_probe(rest)
        elif kind == b"probed":
            self.metrics.frames_heard["probed"].inc()
            self._probes.on_probed(rest)
        elif kind == b"evict":
            self.metrics.frames_heard["evict"].inc()
            self._background.spawn(self._leaving.on_evict(rest), "evict")
        else:
            self.metrics.frames_heard["unknown"].inc()

    async def _on_gap(self) -> None:
        self.metrics.bus_gaps.inc()
        self._waiters.wake_all()
        self._followers.wake_all()
        await self._deliverer.drain_all()
        self.membership.compare_soon()
