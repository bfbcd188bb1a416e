"""What holds clients: the way of a socket from admission to its leave, and what is delivered to it meanwhile."""

from collections.abc import Callable

from node.devices import DeviceNotes
from node.gateway.admission import Admission
from node.gateway.delivery import Deliverer
from node.gateway.endpoint import Endpoint
from node.gateway.handlers import Handlers
from node.gateway.holding import Holding
from node.gateway.hub import Hub
from node.gateway.leaving import Leaving
from node.gateway.registrar import Registrar
from node.gateway.takeover import Probes
from node.gateway.tasks import TaskIntake
from node.gateway.transfers import Transfers
from node.parts.ground import Ground
from node.parts.sessions import SessionParts

__all__ = ["GatewayParts"]


class GatewayParts:
    """`is_member` says whether the node may register anybody. Raises ValueError if a setting cannot be met."""

    def __init__(self, ground: Ground, sessions: SessionParts, *, is_member: Callable[[], bool]) -> None:
        settings, state, metrics = ground.settings, ground.state, ground.metrics
        runner, node_id = sessions.runner, ground.node_id
        self.devices = DeviceNotes(settings.devices_config)
        self.hub = Hub(metrics)
        self.transfers = Transfers(state, runner, max_file_bytes=settings.max_file_bytes)
        self.deliverer = Deliverer(
            state.inbox,
            state.starts,
            state.waiting,
            self.hub,
            runner,
            sessions.resumption,
            self.transfers,
            ground.background,
        )
        self.leaving = Leaving(
            state, self.hub, runner, sessions.departures, node_id=node_id, grace_s=settings.reconnect_grace_s
        )
        self.holding = Holding(state, self.hub, self.leaving, node_id=node_id)
        self.probes = Probes(
            ground.bus, state.nodes, self.hub, ground.background, node_id, lease_renew_s=settings.lease_renew_s
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
        self.endpoint = self._endpoint(ground, sessions, is_member)

    def _endpoint(self, ground: Ground, sessions: SessionParts, is_member: Callable[[], bool]) -> Endpoint:
        settings, state, metrics = ground.settings, ground.state, ground.metrics
        registrar = Registrar(
            state,
            ground.bus,
            self.hub,
            self.deliverer,
            self.probes,
            self.leaving,
            sessions.resumption,
            metrics,
            node_id=ground.node_id,
        )
        tasks = TaskIntake(
            state, sessions.runner, sessions.dispatcher, sessions.service, sessions.planners, metrics, settings
        )
        return Endpoint(
            registrar,
            self.leaving,
            Handlers(state, registrar, sessions.runner, tasks, self.devices),
            self.transfers,
            ground.auth,
            metrics,
            ground.background,
            self.admission,
            is_member=is_member,
            web_guard=ground.web_guard,
            proxies=ground.proxies,
            register_timeout_s=settings.register_timeout_s,
            send_queue_bytes=settings.send_queue_bytes,
            # What its constellation could not be sent is not taken from a device.
            max_result_bytes=min(settings.max_result_bytes, settings.max_frame_bytes, settings.send_queue_bytes),
            parsing=ground.parsing,
            scrub=sessions.secrets.scrub,
        )
