"""Many tasks at once over REST: a list of them, or one task for every device that a selector fits."""

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from node.api.batch_schemas import BatchAnswer, BatchRequest, BatchStarted, ItemAnswer, Selector
from node.api.context import Context, answer
from node.api.requests import read_json, validate
from node.api.tasks import accepted
from node.gateway.device_notes import tags_of
from node.gateway.profile import system_info_of
from node.serving.http_errors import ApiError
from node.sessions.batches import BatchTask, TooManyBatches
from node.sessions.globs import Globs, is_pattern
from node.sessions.task_request import DispatchRequest
from shared_state.batches import Batch, BatchItem
from shared_state.clients import Registration
from shared_state.sessions import TERMINAL, SessionState

__all__ = ["dispatch_batch", "get_batch"]

# Each is tried on every device; plain ids are looked up, and cost nothing.
PATTERNS_BOUND = 64
# How long the choice of devices may hold the event loop at a time.
SLICE_S = 0.005
_FAILED = TERMINAL - {SessionState.COMPLETED}


async def dispatch_batch(context: Context, request: Request) -> Response:
    """`POST /api/dispatch/batch`."""
    asked = validate(
        BatchRequest,
        await read_json(request, context.settings.max_body_bytes, context.settings.body_timeout_s, context.parsing),
    )
    if (asked.tasks is None) == (asked.selector is None):
        raise ApiError(400, "give either 'tasks' or 'selector'")
    tasks = _listed(context, asked) if asked.tasks is not None else await _selected(context, asked)
    if not tasks:
        raise ApiError(404, "No online device fits the selector")
    try:
        batch = await context.batches.start(tasks, window=asked.window)
    except TooManyBatches as exc:
        raise ApiError(429, str(exc), headers={"Retry-After": "10"}) from None
    return answer(BatchStarted(batch_id=batch.batch_id, expected=len(batch.items)), 202)


def _listed(context: Context, asked: BatchRequest) -> list[BatchTask]:
    common = asked.common_fields()
    if common:
        raise ApiError(400, f"{', '.join(common)}: set these in each item of 'tasks'")
    tasks = []
    for number, task in enumerate(asked.tasks or []):
        try:
            tasks.append(_task(context, task))
        except ApiError as exc:
            raise ApiError(exc.status, f"tasks.{number}.{exc.detail}") from None
    return tasks


async def _selected(context: Context, asked: BatchRequest) -> list[BatchTask]:
    assert asked.selector is not None  # noqa: S101 - checked by the caller
    selector = asked.selector
    globs = _globs(selector.client_ids)
    named = dict.fromkeys(p for p in selector.client_ids or [] if not is_pattern(p))
    tasks: list[BatchTask] = []
    # One choice at a time: many at once would each hold the loop for a slice before anybody else has a turn.
    async with context.selecting:
        slice_end = time.perf_counter() + SLICE_S
        async for part in context.state.clients.online_parts():
            for r in part:
                if time.perf_counter() >= slice_end:
                    await asyncio.sleep(0)
                    slice_end = time.perf_counter() + SLICE_S
                if r.client_type != "device":
                    continue
                named.pop(r.client_id, None)
                if _fits(context, selector, globs, r):
                    tasks.append(_task(context, asked.for_device(r.client_id)))
    # Devices named outright are expected, online or not.
    for client_id in named:
        task = asked.for_device(client_id)
        missing = None if task.queue_if_offline else "Client not online"
        tasks.append(_task(context, task, missing=missing))
    return tasks


def _globs(client_ids: list[str] | None) -> Globs | None:
    """Raises ApiError 400 if there are too many patterns, or one is too long."""
    if client_ids is None:
        return None
    if sum(map(is_pattern, client_ids)) > PATTERNS_BOUND:
        raise ApiError(
            400,
            f"selector.client_ids: at most {PATTERNS_BOUND} of them may hold '*', '?' or '['; "
            "choose by 'platform' or 'tags', or send several batches",
        )
    try:
        return Globs(client_ids)
    except ValueError as exc:
        raise ApiError(400, f"selector.client_ids: {exc}") from None


def _fits(context: Context, selector: Selector, globs: Globs | None, r: Registration) -> bool:
    if globs is not None and not globs.match(r.client_id):
        return False
    if selector.platform is not None and r.platform != selector.platform.lower():
        return False
    if selector.tags:
        info: dict[str, Any] = context.devices.merged(r.client_id, system_info_of(r.profile or {}))
        return set(selector.tags) <= set(tags_of(info))
    return True


def _task(context: Context, task: DispatchRequest, *, missing: str | None = None) -> BatchTask:
    return BatchTask(accepted(context, task), missing)


async def get_batch(context: Context, request: Request) -> Response:
    """`GET /api/batches/{batch_id}`."""
    batch = await context.state.batches.find(request.path_params["batch_id"])
    if batch is None:
        raise ApiError(404, "Unknown batch: there is none with this id, or it has expired")
    worked_off = batch.node_id in await context.state.nodes.live()
    items = await _items(context, batch, worked_off=worked_off)
    counts = {
        status: sum(i.status == status for i in items) for status in ("waiting", "running", "done", "failed", "missing")
    }
    over = counts["waiting"] == counts["running"] == 0
    return answer(
        BatchAnswer(
            batch_id=batch.batch_id,
            status="done" if over else "running",
            created_ms=batch.created_ms,
            window=batch.window,
            expected=len(items),
            items=items,
            **counts,
        )
    )


async def _items(context: Context, batch: Batch, *, worked_off: bool) -> list[ItemAnswer]:
    ended = await context.state.sessions.states([i.session_id for i in batch.items if i.session_id is not None])
    return [_item(i, ended, worked_off=worked_off) for i in batch.items]


def _item(item: BatchItem, states: dict[str, tuple[SessionState, str | None]], *, worked_off: bool) -> ItemAnswer:
    state, error = states.get(item.session_id or "", (None, item.error))
    if state is SessionState.COMPLETED:
        status = "done"
    elif state in _FAILED:
        status = "failed"
    elif state is not None:
        status = "running"
    elif item.session_id is None and item.error is None and worked_off:
        status = "waiting"
    else:
        status = "missing"
        error = error or ("The result has expired" if item.session_id else "The node that worked the batch off is gone")
    return ItemAnswer(
        client_id=item.client_id,
        task_name=item.task_name,
        session_id=item.session_id,
        status=status,
        state=state,
        error=error,
    )
