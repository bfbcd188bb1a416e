"""Clients and nodes over REST: who is connected, and where."""

import orjson
from starlette.requests import Request
from starlette.responses import Response

from aip_cluster.protocol.ids import now_ms
from node.api.context import Context, answer
from node.api.requests import dump, flag
from node.api.schemas import ClientDetail, ClientsAnswer, NodeDetail, NodesAnswer
from node.serving.http_errors import ApiError
from node.serving.json_answer import JsonAnswer

__all__ = ["get_client", "list_clients", "list_nodes"]


async def list_clients(context: Context, request: Request) -> Response:
    """`GET /api/clients`."""
    if not flag(request, "detail"):
        ids = await context.state.clients.online_ids()
        return answer(ClientsAnswer(online_clients=ids), without_none=True)
    # As `ClientsAnswer` says, part by part: as one model it would hold everybody else up.
    names: list[str] = []
    details: list[bytes] = []
    async for part in context.state.clients.online_parts():
        names += [r.client_id for r in part]
        details += [b",".join(dump(ClientDetail.of(r)) for r in part)] if part else []
    body = b'{"online_clients":%b,"clients":[%b]}' % (orjson.dumps(names), b",".join(details))
    return JsonAnswer(body)


async def get_client(context: Context, request: Request) -> Response:
    """`GET /api/clients/{client_id}`."""
    found = await context.state.clients.get(request.path_params["client_id"])
    if found is None:
        raise ApiError(404, "Client not online")
    if found.away_until_ms is not None:
        left_s = max(0, found.away_until_ms - now_ms()) // 1000
        raise ApiError(404, f"Client not online: its connection broke; it has {left_s} s left to reconnect")
    return answer(ClientDetail.of(found))


async def list_nodes(context: Context, request: Request) -> Response:  # noqa: ARG001
    """`GET /api/nodes`."""
    nodes = await context.state.nodes.describe()
    fields = set(NodeDetail.model_fields) - {"node_id"}
    return answer(
        NodesAnswer(nodes=[NodeDetail(node_id=n.node_id, **{f: n.info.get(f) for f in fields}) for n in nodes])
    )
