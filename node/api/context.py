"""What every handler gets, and how it answers."""

import asyncio
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.responses import Response

from node.api.requests import dump
from node.cluster.drain import Drainer
from node.cluster.membership import Membership
from node.cluster.overview import Overview
from node.concurrency.parsing import Parsing
from node.connections.hub import Hub
from node.gateway.device_notes import DeviceNotes
from node.serving.auth import Auth
from node.serving.json_answer import JsonAnswer
from node.serving.request_limits import Limits
from node.sessions.batches import BatchRunner
from node.sessions.dispatching import Dispatcher
from node.sessions.planners import Planners
from node.sessions.service import SessionService
from node.sessions.task_request import TaskRules
from node.sessions.waiters import Waiters
from node.settings import Settings
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.bus import Bus

__all__ = ["Context", "answer"]


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the node that REST uses."""

    settings: Settings
    task_rules: TaskRules
    node_id: str
    state: State
    bus: Bus
    hub: Hub
    dispatcher: Dispatcher
    service: SessionService
    membership: Membership
    auth: Auth
    planners: Planners
    batches: BatchRunner
    devices: DeviceNotes
    metrics: Metrics
    parsing: Parsing
    overview: Overview
    drainer: Drainer
    limits: Limits
    # Those who follow the events of a session.
    followers: Waiters
    # Held while a selector is tried on all devices.
    selecting: asyncio.Lock


def answer(model: BaseModel, status: int = 200, *, without_none: bool = False) -> Response:
    """A model as a JSON response."""
    return JsonAnswer(dump(model, without_none=without_none), status)
