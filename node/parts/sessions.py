"""What becomes of tasks: from the dispatch, on whatever node it is asked for, to the end on the device's node."""

from functools import partial

from node.parts.ground import Ground
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

__all__ = ["SessionParts"]


class SessionParts:
    """The planners are to be closed. Raises ValueError if a setting cannot be met."""

    def __init__(self, ground: Ground) -> None:
        settings, state, metrics, background = ground.settings, ground.state, ground.metrics, ground.background
        node_id = ground.node_id
        # Requests that wait for the end of a session, and those that follow its events.
        self.waiters = Waiters()
        self.followers = Waiters()
        self.planners = Planners(settings)
        self.service = SessionService(state, metrics, self.waiters, node_id)
        self.secrets = ToolSecrets(settings.tool_secrets)
        self.runner = _runner(ground, self.service, self.planners, self.secrets)
        self.loads = _loads(ground, self.runner)
        self.dispatcher = _dispatcher(ground, self.loads, self.planners)
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
        self.departures = Departures(state, self.service, self.planners, node_id)
        self.expiry = Expiry(state, self.departures, self.service)


def _runner(ground: Ground, service: SessionService, planners: Planners, secrets: ToolSecrets) -> Runner:
    settings = ground.settings
    return Runner(
        ground.state,
        service,
        ground.metrics,
        ground.background,
        planners,
        Toolbelt(secrets, timeout_s=settings.tools_timeout_s),
        secrets,
        node_id=ground.node_id,
        echo_wait_s=settings.echo_wait_s,
        command_timeout_s=settings.command_timeout_s,
        platform=settings.platform,
        stages=partial(Stages, ground.metrics, ground.tracing),
    )


def _loads(ground: Ground, runner: Runner) -> NodeLoads:
    return NodeLoads(
        ground.state.nodes,
        ground.background,
        ground.bus.tell,
        node_id=ground.node_id,
        own_sessions=lambda: len(runner),
        most=ground.settings.max_sessions_per_node,
    )


def _dispatcher(ground: Ground, loads: NodeLoads, planners: Planners) -> Dispatcher:
    if ground.tracing is None:
        return Dispatcher(ground.state, planners, loads, ground.metrics)
    return TracedDispatcher(ground.state, planners, loads, ground.metrics, ground.tracing)
