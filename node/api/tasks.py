"""Tasks over REST, in UFO's shapes: dispatch one, once if it carries an `Idempotency-Key`; read its result."""

from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response

from aip_cluster.protocol import ProtocolError
from node.api.context import Context, answer
from node.api.idempotency import REPLAYED_HEADER, IdempotentDispatch, KeyBusy, key_of
from node.api.requests import read_json, seconds, validate
from node.api.schemas import TaskResultAnswer, TaskUnknown
from node.serving.http_errors import ApiError, from_state
from node.serving.json_answer import JsonAnswer
from node.sessions.planners import PlannerRefused
from node.sessions.task_request import DispatchRequest, NewTask, TaskTooLarge
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

__all__ = ["accepted", "dispatch", "task_result"]

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
        send = partial(context.dispatcher.dispatch, task)
        if key is None:
            response = JsonAnswer(_dispatched(await send()))
            outcome = "accepted"
        else:
            once = IdempotentDispatch(
                context, key, data, client_id=task.client_id, timeout_s=task.timeout_s, send=send, say=_dispatched
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


def _read(data: dict[str, object], context: Context) -> NewTask:
    # UFO's order and texts: the task first, then the client.
    if not data.get("request") or (isinstance(data["request"], str) and not data["request"].strip()):
        raise ApiError(400, "Empty task content")
    if not data.get("client_id"):
        raise ApiError(400, "Empty client ID")
    return accepted(context, validate(DispatchRequest, data))


def accepted(context: Context, asked: DispatchRequest) -> NewTask:
    """The task, if this node allows it. Raises ApiError 400, or 413 for one that is too large, naming the field."""
    try:
        return context.task_rules.accept(asked)
    except ProtocolError as exc:
        raise ApiError(413 if isinstance(exc, TaskTooLarge) else 400, str(exc)) from None


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
