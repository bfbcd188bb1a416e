"""The table of REST: one row an operation. The router and the OpenAPI document are both made from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from node.api import batch_schemas, batches, clients, drain, files, health, schemas, sessions, streams, tasks
from node.api.context import Context
from node.api.idempotency import KEY_HEADER
from node.sessions.task_request import DispatchRequest

__all__ = ["ROUTES", "Operation", "Parameter"]

Handler = Callable[[Context, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter, or a header."""

    name: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: where, who handles it, what it takes and gives."""

    method: str
    path: str
    handler: Handler
    summary: str
    gives: type[BaseModel] | None = None
    takes: type[BaseModel] | None = None
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    # Failures, by status; 401 and 503 are added where they apply.
    fails: dict[int, str] = field(default_factory=dict)
    # `unhealthy` and `not ready` come with a body of their own.
    fails_as_given: bool = False
    guarded: bool = True
    media_type: str = "text/plain"
    # The body is the file itself.
    takes_file: bool = False
    status: int = 200


_WAIT = Parameter(
    "wait", "number", "wait up to this many seconds for the task to end; at most max_wait_s, 60 by default"
)
_DETAIL = Parameter("detail", "boolean", "1 adds type, platform, node, times and profile")
_IDEMPOTENCY_KEY = Parameter(
    KEY_HEADER, "string", "1 to 255 visible ASCII characters; a repetition with the same body is the same dispatch"
)

ROUTES: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/api/dispatch",
        tasks.dispatch,
        "Send a task to a device",
        gives=schemas.DispatchAnswer,
        takes=DispatchRequest,
        headers=(_IDEMPOTENCY_KEY,),
        fails={
            400: "a field is missing or wrong; the text names it",
            404: "Client not online",
            409: "a task of this name is running, or the Idempotency-Key belongs to another request or one in progress",
            408: "the body did not arrive in time",
            413: "the body, or a part of a task, is too large",
            415: "the body is not JSON",
            422: "no planner can run the task",
            429: "too many messages or bytes wait for devices, or the device, or its node, has too many sessions",
        },
    ),
    Operation(
        "POST",
        "/api/dispatch/batch",
        batches.dispatch_batch,
        "Send many tasks, or one task to every device that a selector matches",
        gives=batch_schemas.BatchStarted,
        takes=batch_schemas.BatchRequest,
        status=202,
        fails={
            400: "a field is missing or wrong; the text names it",
            404: "no device matches the selector",
            408: "the body did not arrive in time",
            413: "the body, or a part of a task, is too large",
            415: "the body is not JSON",
            429: "the node runs too many batches",
        },
    ),
    Operation(
        "GET",
        "/api/batches/{batch_id}",
        batches.get_batch,
        "Progress of a batch: expected, done, failed, missing",
        gives=batch_schemas.BatchAnswer,
        fails={404: "no such batch"},
    ),
    Operation(
        "GET",
        "/api/task_result/{task_name:path}",
        tasks.task_result,
        "The result of a task, by its name",
        gives=schemas.TaskResultAnswer,
        parameters=(_WAIT,),
        fails={400: "a parameter is wrong", 404: "no such task; `status` is `not_found`"},
    ),
    Operation(
        "GET",
        "/api/clients",
        clients.list_clients,
        "Connected clients, on any node",
        gives=schemas.ClientsAnswer,
        parameters=(_DETAIL,),
        fails={400: "a parameter is wrong"},
    ),
    Operation(
        "GET",
        "/api/clients/{client_id:path}",
        clients.get_client,
        "One connected client",
        gives=schemas.ClientDetail,
        fails={404: "Client not online"},
    ),
    Operation(
        "GET",
        "/api/sessions",
        sessions.list_sessions,
        "Sessions, newest first",
        gives=schemas.SessionsAnswer,
        parameters=(
            Parameter("client_id", "string", "only those of this device"),
            Parameter("state", "string", "only those in this state"),
            Parameter("limit", "integer", "how many, 1 to 500; 50 if absent"),
            Parameter("cursor", "string", "next_cursor of the previous page"),
        ),
        fails={400: "a parameter is wrong"},
    ),
    Operation(
        "POST",
        "/api/sessions/{session_id:path}/cancel",
        sessions.cancel_session,
        "Cancel a session, wherever it runs",
        gives=schemas.CancelAnswer,
        fails={404: "no such session"},
    ),
    Operation(
        "GET",
        "/api/sessions/{session_id:path}/files",
        files.list_files,
        "The files of a session",
        gives=schemas.FilesAnswer,
        fails={404: "no such session"},
    ),
    Operation(
        "GET",
        "/api/sessions/{session_id:path}/files/{name}",
        files.get_file,
        "A file of a session",
        fails={400: "the name is invalid", 404: "no such session or file"},
        media_type="application/octet-stream",
    ),
    Operation(
        "PUT",
        "/api/sessions/{session_id:path}/files/{name}",
        files.put_file,
        "Send a file to the session's device; X-Checksum-SHA256 is verified when given",
        gives=schemas.FileAnswer,
        takes_file=True,
        status=202,
        fails={
            400: "the name is invalid, or the body ended early",
            404: "no such session, or Client not online",
            409: "the session has ended",
            413: "the file is too large",
            422: "the checksum does not match",
            429: "too many messages wait for the device, or stored files have reached their limit",
        },
    ),
    Operation(
        "GET",
        "/api/sessions/{session_id:path}/events",
        streams.session_events,
        "What happens in a session, as server-sent events; resumable with Last-Event-ID",
        parameters=(Parameter("after", "string", "same as the header Last-Event-ID"),),
        fails={400: "Last-Event-ID is invalid", 404: "no such session"},
        media_type="text/event-stream",
    ),
    Operation(
        "GET",
        "/api/sessions/{session_id:path}",
        sessions.get_session,
        "One session: state, times, steps, result",
        gives=schemas.SessionDetail,
        fails={404: "no such session"},
    ),
    Operation("GET", "/api/nodes", clients.list_nodes, "The live nodes", gives=schemas.NodesAnswer),
    Operation(
        "POST",
        "/api/nodes/self/drain",
        drain.drain_node,
        "Drain this node: it accepts no new sockets and asks its sockets to move; safe to repeat",
        gives=schemas.DrainAnswer,
        parameters=(
            Parameter(
                "rate", "number", "sockets per second that are asked to move; faster if the deadline requires it"
            ),
            Parameter("deadline_s", "number", "seconds after which all remaining sockets are asked to move"),
        ),
        status=202,
        fails={400: "a parameter is wrong; the text names it"},
    ),
    Operation(
        "GET", "/api/nodes/self/drain", drain.drain_state, "Progress of this node's drain", gives=schemas.DrainAnswer
    ),
    Operation(
        "DELETE",
        "/api/nodes/self/drain",
        drain.undrain_node,
        "Take the drain back: accept clients again",
        gives=schemas.DrainAnswer,
        fails={409: "the node is stopping"},
    ),
    Operation(
        "GET",
        "/api/health",
        health.health,
        "Health of this node",
        gives=schemas.HealthAnswer,
        fails={503: "unhealthy; `reason` says why"},
        fails_as_given=True,
        guarded=False,
    ),
    Operation("GET", "/livez", health.livez, "Liveness of this process; never depends on Redis", guarded=False),
    Operation(
        "GET",
        "/readyz",
        health.readyz,
        "Readiness of this node for traffic",
        gives=schemas.ReadyAnswer,
        fails={503: "not ready; `reason` says why"},
        fails_as_given=True,
        guarded=False,
    ),
    Operation("GET", "/metrics", health.metrics, "Metrics for Prometheus", guarded=False),
)
