"""Tasks over REST, in UFO's shapes: dispatch one, once if it carries an `Idempotency-Key`; read its result."""

from collections.abc import Awaitable, Callable
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response

from aip_cluster.protocol import ProtocolError
from aip_cluster.protocol.ids import check_client_id, check_task_name
from node.api.context import Context, answer
from node.api.idempotency import REPLAYED_HEADER, IdempotentDispatch, KeyBusy, key_of
from node.api.requests import read_json, seconds, validate
from node.api.schemas import DispatchRequest, TaskResultAnswer, TaskUnknown
from node.serving.http_errors import ApiError, from_state
from node.serving.json_answer import JsonAnswer
from node.sessions.dispatching import IMPATIENT, QueuePolicy
from node.sessions.planners import PlannerRefused
from node.sessions.task_bounds import TaskTooLarge
from shared_state.errors import (
    InboxFull,
    KeyOfAnotherRequest,
    NotRegistered,
    QuotaReached,
    SessionExists,
    StateError,
    StateFull,
    StateUnavailable,
    TaskNameTaken,
    TooManySessions,
)
from shared_state.sessions import TERMINAL, Session

__all__ = ["check_task", "dispatch", "patience_of", "task_result"]

QUEUE_FOR_S = 3600.0
UNKNOWN_TASK = "Unknown task: no task of this name was dispatched, or its result has expired"


# What a refused dispatch is counted as.
_OUTCOMES: dict[type[StateError], str] = {
    NotRegistered: "not_online",
    TaskNameTaken: "name_taken",
    SessionExists: "name_taken",
    InboxFull: "inbox_full",
    TooManySessions: "too_many_sessions",
    QuotaReached: "quota_reached",
    KeyOfAnotherRequest: "key_reused",
    StateUnavailable: "unavailable",
    StateFull: "unavailable",
}


async def dispatch(context: Context, request: Request) -> Response:
    """`POST /api/dispatch`."""
    outcome = "invalid"
    try:
        key = key_of(request)
        data = await read_json(
            request, context.settings.max_body_bytes, context.settings.body_timeout_s, context.parsing
        )
        task = _read(data, context)
        outcome = "error"
        timeout_s = task.timeout_s or context.settings.session_timeout_s
        send = _sender(context, task, timeout_s)
        if key is None:
            response = JsonAnswer(_dispatched(await send()))
            outcome = "accepted"
        else:
            once = IdempotentDispatch(
                context, key, data, client_id=task.client_id, timeout_s=timeout_s, send=send, say=_dispatched
            )
            answered, replayed = await once.run()
            response = JsonAnswer(answered.body, answered.status, {REPLAYED_HEADER: "true"} if replayed else None)
            outcome = "replayed" if replayed else "accepted"
    except PlannerRefused as exc:
        outcome = "no_planner"
        raise ApiError(422, str(exc)) from None
    except KeyBusy:
        outcome = "key_busy"
        raise
    except StateError as exc:
        outcome = _OUTCOMES.get(type(exc), "error")
        raise from_state(exc) from exc
    finally:
        context.metrics.dispatched[outcome].inc()
    return response


def _sender(context: Context, task: DispatchRequest, timeout_s: float) -> Callable[..., Awaitable[Session]]:
    """What dispatches the task, as the `attempt` that it may be given."""
    return partial(
        context.dispatcher.dispatch,
        client_id=task.client_id,
        request=task.request,
        task_name=task.task_name,
        commands=task.commands or [],
        timeout_s=timeout_s,
        planner=task.planner,
        metadata=task.metadata or {},
        patience=patience_of(task),
    )


def _dispatched(s: Session) -> bytes:
    # As `DispatchAnswer`.
    return orjson.dumps(
        {
            "status": "dispatched",
            "session_id": s.session_id,
            "task_name": s.task_name,
            "client_id": s.client_id,
        }
    )


def _read(data: dict[str, object], context: Context) -> DispatchRequest:
    # UFO's order and texts: the task first, then the client.
    if not data.get("request") or (isinstance(data["request"], str) and not data["request"].strip()):
        raise ApiError(400, "Empty task content")
    if not data.get("client_id"):
        raise ApiError(400, "Empty client ID")
    return check_task(context, validate(DispatchRequest, data))


def check_task(context: Context, task: DispatchRequest) -> DispatchRequest:
    """The task, if its fields can be meant. Raises ApiError 400, naming the field."""
    if not task.request.strip():
        raise ApiError(400, "request: Empty task content")
    try:
        context.task_bounds.check(task.request, task.metadata, task.commands)
    except TaskTooLarge as exc:
        raise ApiError(413, f"{exc.field}: {exc}") from None
    try:
        check_client_id(task.client_id)
        if task.task_name is not None:
            check_task_name(task.task_name)
    except ProtocolError as exc:
        raise ApiError(400, str(exc)) from None
    if task.planner is not None and task.planner not in context.planners:
        raise ApiError(400, f"planner: must be one of {', '.join(context.planners.names())}")
    if task.timeout_s is not None and task.timeout_s > context.settings.max_session_timeout_s:
        raise ApiError(400, f"timeout_s: must be at most {context.settings.max_session_timeout_s:g}")
    if task.ttl_s is not None and not task.queue_if_offline:
        raise ApiError(400, "ttl_s: only with queue_if_offline")
    if task.ttl_s is not None and task.ttl_s > context.settings.max_session_timeout_s:
        raise ApiError(400, f"ttl_s: must be at most {context.settings.max_session_timeout_s:g}")
    return task


def patience_of(task: DispatchRequest) -> QueuePolicy:
    """How long the task may wait for its device, and how often it may be tried."""
    if not task.queue_if_offline and task.max_attempts is None:
        return IMPATIENT
    queue_for_s = (task.ttl_s or QUEUE_FOR_S) if task.queue_if_offline else None
    return QueuePolicy(queue_for_s, task.max_attempts or 1)


async def task_result(context: Context, request: Request) -> Response:
    """`GET /api/task_result/{task_name}`."""
    name = request.path_params["task_name"]
    wait_s = seconds(request, "wait", most=context.settings.max_wait_s)
    if context.service.letting_go:
        wait_s = 0.0
    session = await context.service.current(await context.state.sessions.find_by_task(name))
    if session is not None and session.state not in TERMINAL and wait_s > 0:
        with context.limits.wait(request):
            session = await context.service.wait(session, wait_s)
    if session is None:
        # Code written for UFO's server looks at `status` whatever the code of the answer is.
        return answer(TaskUnknown(detail=UNKNOWN_TASK), 404)
    if session.state not in TERMINAL:
        return answer(TaskResultAnswer(status="pending"), without_none=True)
    done = TaskResultAnswer(
        status="done",
        result=session.result,
        state=session.state,
        error=session.error,
        session_id=session.session_id,
    )
    return answer(done)
