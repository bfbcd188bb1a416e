"""Draining this node over REST: before maintenance, by whoever may use the API. To be asked of the node itself.

A drained node stays up, not ready, until it is told to stop, or takes clients again.
"""

import math
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from node.api.context import Context, answer
from node.api.schemas import DrainAnswer
from node.serving.http_errors import ApiError

__all__ = ["drain_node", "drain_state", "undrain_node"]

MAX_RATE_PER_S = 100_000.0
MAX_DEADLINE_S = 86_400.0


async def drain_node(context: Context, request: Request) -> Response:
    """`POST /api/nodes/self/drain`."""
    unknown = sorted(set(request.query_params) - {"rate", "deadline_s"})
    if unknown:
        raise ApiError(400, f"{unknown[0][:64]}: unknown parameter")
    context.drainer.begin(
        rate_per_s=_number(request, "rate", least=0.01, most=MAX_RATE_PER_S),
        deadline_s=_number(request, "deadline_s", least=0.0, most=MAX_DEADLINE_S),
    )
    return _state(context, 202)


async def drain_state(context: Context, request: Request) -> Response:  # noqa: ARG001
    """`GET /api/nodes/self/drain`."""
    return _state(context)


async def undrain_node(context: Context, request: Request) -> Response:  # noqa: ARG001
    """`DELETE /api/nodes/self/drain`."""
    if context.service.stopping or context.drainer.final:
        raise ApiError(409, "The node is stopping")
    await context.drainer.end()
    return _state(context)


def _state(context: Context, status: int = 200) -> Response:
    return answer(DrainAnswer(node_id=context.node_id, **asdict(context.drainer.state)), status, without_none=True)


def _number(request: Request, name: str, *, least: float, most: float) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise ApiError(400, f"{name}: must be a number from {least:g} to {most:g}")
    return value
