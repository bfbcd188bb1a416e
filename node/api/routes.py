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


_WAIT = Parameter("wait", "number", "hold the answer up to this many seconds until the task ends; at most 60")
_DETAIL = Parameter("detail", "boolean", "1: with type, platform, node, times and profile")
_IDEMPOTENCY_KEY = Parameter(
    KEY_HEADER, "string", "1 to 255 visible ASCII characters; sent again with the same body it is the same dispatch"
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
            409: "a task of this name is running, or the Idempotency-Key is of another request, or of one at work",
            408: "the body was not there in time",
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
        "Send many tasks, or one task to every device that a selector fits",
        gives=batch_schemas.BatchStarted,
        takes=batch_schemas.BatchRequest,
        status=202,
        fails={
            400: "a field is missing or wrong; the text names it",
            404: "no device fits the selector",
            408: "the body was not there in time",
            413: "the body, or a part of a task, is too large",
            415: "the body is not JSON",
            429: "the node works off too many batches",
        },
    ),
    Operation(
        "GET",
        "/api/batches/{batch_id}",
        batches.get_batch,
        "How a batch stands: expected, done, failed, missing",
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
        fails={400: "a parameter is wrong", 404: "nobody dispatched such a task; `status` is `not_found`"},
    ),
    Operation(
        "GET",
        "/api/clients",
        clients.list_clients,
        "Who is connected, on any node",
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
            Parameter("cursor", "string", "next_cursor of the page before"),
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
        fails={400: "the name is none", 404: "no such session or file"},
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
            400: "the name is none, or the body ended early",
            404: "no such session, or Client not online",
            409: "the session has ended",
            413: "the file is too large",
            422: "the checksum does not fit",
            429: "too many messages wait for the device, or files take as many bytes as they may",
        },
    ),
    Operation(
        "GET",
        "/api/sessions/{session_id:path}/events",
        streams.session_events,
        "What happens in a session, as server-sent events; resumable with Last-Event-ID",
        parameters=(Parameter("after", "string", "as Last-Event-ID, where a header cannot be set"),),
        fails={400: "Last-Event-ID is none", 404: "no such session"},
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
        "Empty this very node: no new sockets, those that it has are asked to move; repeating is harmless",
        gives=schemas.DrainAnswer,
        parameters=(
            Parameter("rate", "number", "sockets per second that are asked to move; faster where the deadline asks it"),
            Parameter("deadline_s", "number", "seconds after which whoever is left is asked to move all the same"),
        ),
        status=202,
        fails={400: "a parameter is wrong; the text names it"},
    ),
    Operation("GET", "/api/nodes/self/drain", drain.drain_state, "How that stands", gives=schemas.DrainAnswer),
    Operation(
        "DELETE",
        "/api/nodes/self/drain",
        drain.undrain_node,
        "Take clients again",
        gives=schemas.DrainAnswer,
        fails={409: "the node is stopping"},
    ),
    Operation(
        "GET",
        "/api/health",
        health.health,
        "Is this node well",
        gives=schemas.HealthAnswer,
        fails={503: "unhealthy; `reason` says why"},
        fails_as_given=True,
        guarded=False,
    ),
    Operation("GET", "/livez", health.livez, "Is this process alive; never looks at Redis", guarded=False),
    Operation(
        "GET",
        "/readyz",
        health.readyz,
        "Should this node get traffic",
        gives=schemas.ReadyAnswer,
        fails={503: "not ready; `reason` says why"},
        fails_as_given=True,
        guarded=False,
    ),
    Operation("GET", "/metrics", health.metrics, "Metrics for Prometheus", guarded=False),
)
