"""What answers requests: REST with its bounds, what a scraper reads, and the internal port where there is one."""

import asyncio

from starlette.applications import Starlette
from starlette.types import Lifespan

from node.api.context import Context
from node.api.limits import Limits
from node.api.middleware import Shell
from node.api.router import application, internal_application
from node.drain import Drainer
from node.internal import InternalPort
from node.membership import Membership
from node.overview import Overview
from node.parts.gateway import GatewayParts
from node.parts.ground import Ground
from node.parts.sessions import SessionParts
from node.sessions.task_bounds import TaskBounds
from node.telemetry.readings import NodeCollector

__all__ = ["ApiParts"]


class ApiParts:
    """`rest` is an ASGI application, whose lifespan is `lifespan`. The internal port is to be started and closed."""

    def __init__(
        self,
        ground: Ground,
        sessions: SessionParts,
        gateway: GatewayParts,
        membership: Membership,
        drainer: Drainer,
        *,
        lifespan: Lifespan[Starlette],
    ) -> None:
        settings, metrics = ground.settings, ground.metrics
        self.limits = Limits(
            metrics,
            ground.proxies,
            max_requests=settings.max_requests,
            max_waiters=settings.max_waiters,
            max_event_streams=settings.max_event_streams,
            address_share=settings.address_share,
        )
        self.overview = Overview(
            settings,
            ground.state,
            ground.bus,
            gateway.hub,
            sessions.runner,
            self.limits,
            gateway.admission,
            membership,
            drainer,
            ground.background,
        )
        NodeCollector(metrics.registry, self.overview.read)
        context = Context(
            settings=settings,
            task_bounds=TaskBounds(settings),
            node_id=ground.node_id,
            state=ground.state,
            bus=ground.bus,
            hub=gateway.hub,
            dispatcher=sessions.dispatcher,
            service=sessions.service,
            membership=membership,
            auth=ground.auth,
            planners=sessions.planners,
            batches=sessions.batches,
            devices=gateway.devices,
            metrics=metrics,
            parsing=ground.parsing,
            overview=self.overview,
            drainer=drainer,
            followers=sessions.followers,
            limits=self.limits,
            selecting=asyncio.Lock(),
        )
        rest = application(context, lifespan)
        self.rest = Shell(
            rest, ground.auth, ground.web_guard, self.limits, metrics, ground.tracing, lambda: drainer.active
        )
        self.internal: InternalPort | None = None
        if settings.metrics_port:
            self.internal = InternalPort(
                internal_application(context), host=settings.bind_host, port=settings.metrics_port
            )
