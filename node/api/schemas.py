"""The shapes of REST: what is taken, what is given. The OpenAPI document is made from these."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from shared_state.clients import Registration
from shared_state.files import FileInfo
from shared_state.sessions import Session, SessionState

__all__ = [
    "CancelAnswer",
    "ClientDetail",
    "ClientsAnswer",
    "DispatchAnswer",
    "ErrorAnswer",
    "FileAnswer",
    "FilesAnswer",
    "HealthAnswer",
    "NodesAnswer",
    "ReadyAnswer",
    "SessionDetail",
    "SessionSummary",
    "SessionsAnswer",
    "TaskResultAnswer",
    "TaskUnknown",
]


class DispatchAnswer(BaseModel):
    """The task is stored and on its way."""

    status: Literal["dispatched"] = "dispatched"
    session_id: str
    task_name: str
    client_id: str


class TaskUnknown(BaseModel):
    """No task of this name: not dispatched, or its result has expired."""

    status: Literal["not_found"] = "not_found"
    detail: str


class TaskResultAnswer(BaseModel):
    """`pending`, or `done` with how it ended: failed, cancelled and timed out are done too."""

    status: Literal["pending", "done"]
    result: Any = None
    state: SessionState | None = None
    error: str | None = None
    session_id: str | None = None


class ClientDetail(BaseModel):
    """A connected client."""

    client_id: str
    client_type: str
    platform: str
    node_id: str
    target_id: str | None
    features: list[str]
    since_ms: int = Field(description="registered at, ms since the epoch")
    last_seen_ms: int | None = Field(description="last heard at, ms since the epoch; up to 5 s old")
    profile: dict[str, Any] | None = Field(description="what the client said of itself")

    @classmethod
    def of(cls, r: Registration) -> "ClientDetail":
        """From a registration."""
        return cls(
            client_id=r.client_id,
            client_type=r.client_type,
            platform=r.platform,
            node_id=r.node_id,
            target_id=r.target_id or None,
            features=sorted(r.features),
            since_ms=r.since_ms,
            last_seen_ms=max(r.last_seen_ms, r.since_ms) if r.last_seen_ms is not None else None,
            profile=r.profile,
        )


class ClientsAnswer(BaseModel):
    """Who is connected, anywhere in the cluster."""

    online_clients: list[str]
    clients: list[ClientDetail] | None = Field(None, description="with `?detail=1`")


class SessionSummary(BaseModel):
    """A session without its result."""

    session_id: str
    task_name: str
    client_id: str
    state: SessionState
    planner: str
    request: str
    owner: str | None = Field(description="the client that asked for it; null for REST")
    node_id: str | None = Field(description="the node that runs or ran it")
    timeout_s: float
    created_ms: int
    dispatched_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    error: str | None
    prompt_tokens: int = Field(description="what a planner asked of a model")
    completion_tokens: int = Field(description="what a model answered")
    orphaned_sessions: Literal["continue", "cancel"] | None = Field(
        description="what becomes of it if the constellation that asked for it leaves for good; null for all others"
    )


class SessionDetail(SessionSummary):
    """A session with its steps and its result."""

    result: Any = None
    metadata: dict[str, Any] = {}
    steps: list[dict[str, Any]] = Field(description="what happened, in order; `at_ms` is the time")

    @classmethod
    def of(cls, session: Session, steps: list[dict[str, Any]]) -> "SessionDetail":
        """From a stored session and its events."""
        return cls(**summary_fields(session), result=session.result, metadata=session.metadata, steps=steps)


def summary_fields(s: Session) -> dict[str, Any]:
    """The fields of SessionSummary."""
    names = set(SessionSummary.model_fields) - {"owner", "node_id", "orphaned_sessions"}
    policy = s.metadata.get("orphaned_sessions") if s.owner not in {"", s.client_id} else None
    fields = {n: getattr(s, n) for n in names}
    return {**fields, "owner": s.owner or None, "node_id": s.node_id or None, "orphaned_sessions": policy}


class SessionsAnswer(BaseModel):
    """Sessions, newest first."""

    sessions: list[SessionSummary]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null on the last")


class CancelAnswer(BaseModel):
    """`cancelled` says whether this call did it; `state` is what the session is in now."""

    session_id: str
    state: SessionState
    cancelled: bool


class FileAnswer(BaseModel):
    """A file of a session."""

    name: str
    size: int
    sha256: str
    mime_type: str
    stored_ms: int
    to_device: bool = Field(description="whether it came over REST for the device, or from the device")
    delivered: bool = Field(description="whether the device has confirmed it")
    error: str | None = Field(description="why the device could not take it")

    @classmethod
    def of(cls, info: FileInfo) -> "FileAnswer":
        """From what is stored."""
        return cls(**{n: getattr(info, n) for n in cls.model_fields})


class FilesAnswer(BaseModel):
    """The files of a session."""

    files: list[FileAnswer]


class NodeDetail(BaseModel):
    """A live node."""

    node_id: str
    url: str | None
    version: str | None
    started_ms: int | None
    connections: int | None
    sessions: int | None
    draining: bool | None


class DrainAnswer(BaseModel):
    """How the drain of a node stands; `waiting` devices are in the middle of a step."""

    node_id: str
    draining: bool
    done: bool
    connections: int
    moved: int
    waiting: int
    rate_per_s: float | None
    seconds_left: float | None
    began_ms: int | None


class NodesAnswer(BaseModel):
    """The nodes that hold a lease."""

    nodes: list[NodeDetail]


class HealthAnswer(BaseModel):
    """The node and its view of the cluster; status 503 when `status` is `unhealthy`."""

    status: Literal["healthy", "unhealthy"]
    online_clients: list[str]
    node_id: str
    version: str
    reason: str | None = None


class ReadyAnswer(BaseModel):
    """Whether the node should get traffic; status 503 when it should not."""

    status: Literal["ready", "not ready"]
    reason: str | None = None


class ErrorAnswer(BaseModel):
    """What went wrong, in a sentence."""

    detail: str
