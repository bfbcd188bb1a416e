"""A node, put together: one object that owns every part, and the ASGI application in front of it.

The parts are made in four steps, `NodeCore`, `SessionParts`, `GatewayParts`, `ApiParts`: each knows those made before
it, and none that is made later. Making them does no I/O. `Node` starts and stops them.

Start: lease, bus, then traffic. Redis may be away: the node is then alive and not ready. Stop: the node is drained,
takes nothing new, uvicorn closes the sockets that are left (1012), what they held is given up, the lease last.
"""

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Lifespan

from aip_cluster.protocol.ids import now_ms
from node.api.context import Context
from node.api.middleware import RequestMiddleware
from node.api.router import application, internal_application
from node.cluster.bus_frames import BusFrames
from node.cluster.drain import Drainer
from node.cluster.membership import Membership
from node.cluster.overview import Overview, counts
from node.cluster.reaper import Reaper
from node.cluster.timers import Expiry
from node.concurrency.background import Background
from node.concurrency.parsing import Parsing
from node.connections.hub import Hub
from node.gateway.admission import Admission
from node.gateway.asgi import AsgiApp
from node.gateway.delivery import Deliverer
from node.gateway.device_notes import DeviceNotes
from node.gateway.disconnect import Disconnect
from node.gateway.endpoint import Endpoint
from node.gateway.handlers import Handlers
from node.gateway.registrar import Registrar
from node.gateway.registration_upkeep import RegistrationUpkeep
from node.gateway.takeover import Probes
from node.gateway.tasks import TaskIntake
from node.gateway.transfers import Transfers
from node.serving.auth import Auth
from node.serving.connection_bounds import ConnectionBounds
from node.serving.internal_port import InternalPort
from node.serving.proxies import Proxies, behind_proxies
from node.serving.request_limits import Limits
from node.serving.server import Server, bearable
from node.serving.web_guard import WebGuard
from node.sessions.batches import BatchRunner
from node.sessions.dispatching import Dispatcher
from node.sessions.node_load import NodeLoad
from node.sessions.planners import Planners
from node.sessions.resumption import Resumption
from node.sessions.runner import Runner
from node.sessions.secrets import ToolSecrets
from node.sessions.service import SessionService
from node.sessions.suspension import Suspensions
from node.sessions.task_request import TaskRules
from node.sessions.task_timing import TaskTiming
from node.sessions.tool_catalog import ToolCatalog
from node.sessions.traced import TracedDispatcher
from node.sessions.waiters import Waiters
from node.settings import Settings
from node.telemetry.lag import LoopLag
from node.telemetry.metrics import Metrics, package_version
from node.telemetry.readings import NodeCollector
from node.telemetry.tracing import tracing_for
from shared_state import State
from shared_state.quotas import Bounds

__all__ = ["Node"]

log = logging.getLogger(__name__)

BUS_WAIT_S = 2.0
BACKGROUND_GRACE_S = 2.0


class NodeCore:
    """Made first. Raises ValueError if a setting cannot be met."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Unique per start: what an earlier process of this name held is void, whatever it held.
        self.node_id = f"{settings.node_id}.{secrets.token_hex(3)}"
        self.auth = Auth(settings.api_key)
        self.web_guard = WebGuard(settings)
        self.proxies = Proxies()
        self.background = Background()
        self.metrics = Metrics()
        self.parsing = Parsing()
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
            queue_share=settings.redis_queue_share,
            task_share=settings.redis_task_share,
            bounds=Bounds(
                queued_of_client=settings.max_queued_bytes_per_client,
                queued_of_credential=settings.max_queued_bytes_per_credential,
                queued=settings.max_queued_bytes,
                files_of_credential=settings.max_files_bytes_per_credential,
                files=settings.max_files_bytes,
            ),
            credential=self.auth.credential,
            observer=self.metrics.observe_redis,
            on_said=self.metrics.frame_said,
        )
        self.bus = self.state.bus(
            self.node_id,
            probe_interval_s=settings.probe_interval_s,
            deaf_after_s=settings.deaf_after_s,
            observer=self.metrics,
        )


class SessionParts:
    """The planners are to be closed. Raises ValueError if a setting cannot be met."""

    def __init__(self, core: NodeCore) -> None:
        settings, state, metrics, background = core.settings, core.state, core.metrics, core.background
        node_id = core.node_id
        # Requests that wait for the end of a session, and those that follow its events.
        self.waiters = Waiters()
        self.followers = Waiters()
        self.planners = Planners(settings)
        self.service = SessionService(state, metrics, self.waiters, node_id)
        self.secrets = ToolSecrets(settings.tool_secrets)
        self.runner = _runner(core, self.service, self.planners, self.secrets)
        self.node_load = _loads(core, self.runner)
        self.dispatcher = _dispatcher(core, self.node_load, self.planners)
        self.batches = BatchRunner(state, self.dispatcher, self.service, background, node_id)
        self.resumption = Resumption(
            state,
            self.runner,
            self.service,
            self.planners,
            background,
            node_id=node_id,
            grace_s=settings.reconnect_grace_s,
        )
        self.suspensions = Suspensions(state, self.service, self.planners, node_id)
        self.expiry = Expiry(state, self.suspensions, self.service)


def _runner(core: NodeCore, service: SessionService, planners: Planners, secrets: ToolSecrets) -> Runner:
    settings = core.settings
    return Runner(
        core.state,
        service,
        core.metrics,
        core.background,
        planners,
        ToolCatalog(secrets, timeout_s=settings.tools_timeout_s),
        secrets,
        node_id=core.node_id,
        echo_wait_s=settings.echo_wait_s,
        command_timeout_s=settings.command_timeout_s,
        platform=settings.platform,
        timing=partial(TaskTiming, core.metrics, core.tracing),
    )


def _loads(core: NodeCore, runner: Runner) -> NodeLoad:
    return NodeLoad(
        core.state.nodes,
        core.background,
        core.bus.tell,
        node_id=core.node_id,
        own_sessions=lambda: len(runner),
        most=core.settings.max_sessions_per_node,
    )


def _dispatcher(core: NodeCore, loads: NodeLoad, planners: Planners) -> Dispatcher:
    if core.tracing is None:
        return Dispatcher(core.state, planners, loads, core.metrics)
    return TracedDispatcher(core.state, planners, loads, core.metrics, core.tracing)


class GatewayParts:
    """`is_member` says whether the node may register anybody. Raises ValueError if a setting cannot be met."""

    def __init__(self, core: NodeCore, sessions: SessionParts, *, is_member: Callable[[], bool]) -> None:
        settings, state, metrics = core.settings, core.state, core.metrics
        runner, node_id = sessions.runner, core.node_id
        self.devices = DeviceNotes(settings.devices_config)
        self.hub = Hub(metrics)
        self.transfers = Transfers(state, runner, max_file_bytes=settings.max_file_bytes)
        self.deliverer = Deliverer(
            state.inbox,
            state.session_creator,
            state.waiting,
            self.hub,
            runner,
            sessions.resumption,
            self.transfers,
            core.background,
        )
        self.disconnect = Disconnect(
            state, self.hub, runner, sessions.suspensions, node_id=node_id, grace_s=settings.reconnect_grace_s
        )
        self.upkeep = RegistrationUpkeep(state, self.hub, self.disconnect, node_id=node_id)
        self.probes = Probes(
            core.bus, state.nodes, self.hub, core.background, node_id, lease_renew_s=settings.lease_renew_s
        )
        self.admission = Admission(
            metrics,
            rate_per_s=settings.connect_rate_per_s,
            burst=settings.connect_burst,
            max_connections=settings.max_connections,
            max_unregistered=settings.max_unregistered,
            max_registering=settings.max_registering,
            address_share=settings.address_share,
        )
        self.endpoint = self._endpoint(core, sessions, is_member)

    def _endpoint(self, core: NodeCore, sessions: SessionParts, is_member: Callable[[], bool]) -> Endpoint:
        settings, state, metrics = core.settings, core.state, core.metrics
        registrar = Registrar(
            state,
            core.bus,
            self.hub,
            self.deliverer,
            self.probes,
            self.disconnect,
            sessions.resumption,
            metrics,
            node_id=core.node_id,
        )
        rules = TaskRules(settings, sessions.planners)
        tasks = TaskIntake(state, sessions.runner, sessions.dispatcher, sessions.service, rules, metrics, settings)
        return Endpoint(
            registrar,
            self.disconnect,
            Handlers(state, registrar, sessions.runner, tasks, self.devices),
            self.transfers,
            core.auth,
            metrics,
            core.background,
            self.admission,
            is_member=is_member,
            web_guard=core.web_guard,
            proxies=core.proxies,
            register_timeout_s=settings.register_timeout_s,
            send_queue_bytes=settings.send_queue_bytes,
            # What its constellation could not be sent is not taken from a device.
            max_result_bytes=min(settings.max_result_bytes, settings.max_frame_bytes, settings.send_queue_bytes),
            parsing=core.parsing,
            scrub=sessions.secrets.scrub,
        )


class ApiParts:
    """`rest` is an ASGI application, whose lifespan is `lifespan`. The internal port is to be started and closed."""

    def __init__(
        self,
        core: NodeCore,
        sessions: SessionParts,
        gateway: GatewayParts,
        membership: Membership,
        drainer: Drainer,
        *,
        lifespan: Lifespan[Starlette],
    ) -> None:
        settings, metrics = core.settings, core.metrics
        self.limits = Limits(
            metrics,
            core.proxies,
            max_requests=settings.max_requests,
            max_waiters=settings.max_waiters,
            max_event_streams=settings.max_event_streams,
            address_share=settings.address_share,
        )
        self.overview = Overview(
            settings,
            core.state,
            core.bus,
            gateway.hub,
            sessions.runner,
            self.limits,
            gateway.admission,
            membership,
            drainer,
            core.background,
        )
        NodeCollector(metrics.registry, self.overview.read)
        context = Context(
            settings=settings,
            task_rules=TaskRules(settings, sessions.planners),
            node_id=core.node_id,
            state=core.state,
            bus=core.bus,
            hub=gateway.hub,
            dispatcher=sessions.dispatcher,
            service=sessions.service,
            membership=membership,
            auth=core.auth,
            planners=sessions.planners,
            batches=sessions.batches,
            devices=gateway.devices,
            metrics=metrics,
            parsing=core.parsing,
            overview=self.overview,
            drainer=drainer,
            followers=sessions.followers,
            limits=self.limits,
            selecting=asyncio.Lock(),
        )
        rest = application(context, lifespan)
        self.rest = RequestMiddleware(
            rest, core.auth, core.web_guard, self.limits, metrics, core.tracing, lambda: drainer.active
        )
        self.internal: InternalPort | None = None
        if settings.metrics_port:
            self.internal = InternalPort(
                internal_application(context), host=settings.bind_host, port=settings.metrics_port
            )


class Node:
    """One node. `app` is its ASGI application; its lifespan starts and stops the node.

    Raises ValueError if a setting cannot be met.
    """

    def __init__(self, settings: Settings) -> None:
        self._started_ms = now_ms()
        core = NodeCore(settings)
        self.settings, self.node_id = settings, core.node_id
        self.metrics, self.tracing, self.proxies = core.metrics, core.tracing, core.proxies
        self.state, self.bus = core.state, core.bus
        self._background = core.background
        self._lag = LoopLag(self.metrics.loop_lag.observe)
        self.sessions = SessionParts(core)
        # A circle: the gateway asks whether the node is a member, membership tells whether it drains, the drain shuts
        # the gateway. So these three are given calls into the node, not each other.
        self.gateway = GatewayParts(core, self.sessions, is_member=lambda: self.membership.is_member)
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
        self.api = ApiParts(core, self.sessions, self.gateway, self.membership, self.drainer, lifespan=self._lifespan)
        self.app: ASGIApp = AsgiApp(behind_proxies(self.gateway.endpoint), self.api.rest)

    def _membership(self) -> Membership:
        gateway, sessions, settings = self.gateway, self.sessions, self.settings
        reaper = Reaper(
            self.state, sessions.suspensions, self.metrics, node_id=self.node_id, grace_s=settings.reconnect_grace_s
        )
        return Membership(
            self.state,
            gateway.upkeep,
            gateway.disconnect,
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
            sessions.node_load,
            gateway.disconnect,
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

    # -- served ----------------------------------------------------------------------------------------------------
    def server(self, *, signals: bool) -> Server:
        """The server that serves this node; with `signals` it stops at SIGTERM and SIGINT."""
        connections = bearable(self.settings.max_tcp_connections)
        bounds = ConnectionBounds.of(self.settings, self.metrics, self.proxies, max_tcp_connections=connections)
        server = Server(self.app, self, self.settings, bounds, signals=signals)
        self.api.overview.tcp, self.api.overview.tcp_limit = server.connections, connections
        return server

    def begin_drain(self) -> None:
        """Move devices to other nodes; the node does not come back from it."""
        self.drainer.final = True
        self.drainer.begin()

    async def drained(self) -> None:
        """Return once the drain is over. Cancelling is safe."""
        await self.drainer.wait()

    def hurry(self) -> None:
        """Cut the drain short."""
        self.drainer.hurry()

    def begin_stop(self) -> None:
        """Take nothing new, and let go of requests that only wait. Sockets go next."""
        self.gateway.endpoint.draining = True
        self.gateway.disconnect.stopping = True
        self.sessions.waiters.stop()
        self.sessions.followers.stop()

    async def stop(self) -> None:
        """Give up what is left, the lease last."""
        self.begin_stop()
        await self.drainer.close()
        # What Redis did not take goes on in the background.
        with suppress(TimeoutError):
            async with asyncio.timeout(BACKGROUND_GRACE_S):
                await self.state.end_batch.flush()
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
