"""Is it well: for people (`/api/health`), for orchestrators (`/livez`, `/readyz`), for Prometheus (`/metrics`).

`/livez` never looks at Redis: an outage must not have every node restarted, and every device disconnected, together.
"""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from node.api.context import Context, answer
from node.api.schemas import HealthAnswer, ReadyAnswer
from node.telemetry.metrics import package_version
from shared_state.errors import StateError

__all__ = ["health", "livez", "metrics", "readyz"]


async def health(context: Context, request: Request) -> Response:
    """`GET /api/health`."""
    reason: str | None = None
    online: list[str] = []
    if not context.auth.allows(request.scope["headers"]):
        # Probes have no key, and need no names.
        try:
            await context.state.connection.ping()
        except StateError as exc:
            reason = str(exc)
        return _health(context, reason, online)
    try:
        online = await context.state.clients.online_ids()
    except StateError as exc:
        # Then the clients of this node are what is known.
        reason, online = str(exc), sorted(c.client_id for c in context.hub)
    return _health(context, reason, online)


def _health(context: Context, reason: str | None, online: list[str]) -> Response:
    reason = reason or _own_trouble(context)
    status = "unhealthy" if reason else "healthy"
    body = HealthAnswer(
        status=status,
        online_clients=online,
        node_id=context.node_id,
        version=package_version(),
        reason=reason,
    )
    return answer(body, 503 if reason else 200, without_none=True)


async def livez(context: Context, request: Request) -> Response:  # noqa: ARG001
    """`GET /livez`."""
    return PlainTextResponse("ok\n")


async def readyz(context: Context, request: Request) -> Response:  # noqa: ARG001
    """`GET /readyz`."""
    reason = "the node is shutting down" if context.service.stopping else None
    if reason is None and context.drainer.active:
        reason = "draining"
    if reason is None:
        try:
            await context.state.connection.ping()
        except StateError as exc:
            reason = str(exc)
    reason = reason or _own_trouble(context)
    if reason:
        return answer(ReadyAnswer(status="not ready", reason=reason), 503)
    return answer(ReadyAnswer(status="ready"), without_none=True)


def _own_trouble(context: Context) -> str | None:
    if not context.membership.is_member:
        return "the node holds no lease"
    if not context.bus.subscribed:
        return "the node does not hear the bus"
    return None


async def metrics(context: Context, request: Request) -> Response:
    """`GET /metrics`."""
    await context.overview.refresh()
    body, content_type = context.metrics.expose_to(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
