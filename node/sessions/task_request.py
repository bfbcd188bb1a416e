"""What a caller may ask for, and whether it can be meant: the same for REST, a batch and a socket.

`DispatchRequest` is what the caller fills in, `TaskRules` are what this node allows, `NewTask` is the record that a
dispatch takes. A new field of a task is a field of `TaskFields` and of `shared_state.task_record.TaskRecord`, copied in
`TaskRules.accept`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aip_cluster.protocol import Command, ProtocolError
from aip_cluster.protocol.ids import check_client_id, check_task_name
from aip_cluster.protocol.messages import COMMANDS_BOUND
from node.sessions.planners import Planners
from node.settings import Settings
from shared_state.task_record import TaskRecord

__all__ = ["IN_METADATA", "DispatchRequest", "NewTask", "TaskFields", "TaskRules", "TaskTooLarge", "from_message"]

ATTEMPTS_BOUND = 10
QUEUE_FOR_S = 3600.0
# A `task` message has no fields for these: it carries them in its metadata.
IN_METADATA = ("commands", "planner", "timeout_s")


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number of seconds")
    return value


Seconds = Annotated[float, BeforeValidator(_no_truth_value), Field(gt=0, strict=False)]


class GivenCommand(Command):
    """A command as a dispatch gives it: unknown fields are mistakes here."""

    model_config = ConfigDict(extra="forbid")

    tool_name: str = Field(min_length=1, max_length=256, description="name of the tool, or `namespace.tool`")


class TaskFields(BaseModel):
    """What a task may say beside its device and its words."""

    model_config = ConfigDict(extra="forbid", strict=True)

    commands: list[GivenCommand] | None = Field(
        None, max_length=COMMANDS_BOUND, description="commands to execute in order; the rest is skipped after a failure"
    )
    timeout_s: Seconds | None = Field(None, description="seconds until the session ends as timed out")
    planner: str | None = Field(None, description="auto, direct, device, llm, or one that a package brings")
    metadata: dict[str, Any] | None = Field(
        None, description="passed on; `agent_name`, `process_name`, `root_name` choose the device's tool set"
    )
    queue_if_offline: bool | None = Field(
        None, description="a device that is not connected gets the task when it next connects, within `ttl_s`"
    )
    ttl_s: Seconds | None = Field(None, description="how long the task may wait for its device; an hour if absent")
    max_attempts: int | None = Field(
        None,
        ge=1,
        le=ATTEMPTS_BOUND,
        description="how often the task may be handed over in all, where the device is gone again before it took it",
    )


class DispatchRequest(TaskFields):
    """A task for a device."""

    client_id: str = Field(description="the device")
    request: str = Field(description="the task in words")
    task_name: str | None = Field(
        None,
        description="a name for the result: letters, digits, '.', '_', '-', no leading dot; the session id if absent",
    )


@dataclass(slots=True, kw_only=True)
class NewTask(TaskRecord):
    """A task that may be dispatched.

    An empty `task_name` means the session's id, an empty `planner` the node's default.
    It may wait for a device that is not connected for `queue_for_s` (None: not at all), and is handed over
    `max_attempts` times at most, where the device is gone again before it took it.
    """

    commands: Sequence[Command] = ()
    queue_for_s: float | None = None
    max_attempts: int = 1
    # The client's own id of the request, and what it asks for as a hash (see `Session`).
    request_id: str = ""
    fingerprint: str = ""


class TaskTooLarge(ProtocolError):
    """A part of a task is above its bound; the text says which one, and what to do."""

    def __init__(self, field: str, size: int, bound: int) -> None:
        super().__init__(
            f"has {size} bytes, at most {bound} are allowed (max_{field}_bytes); "
            "send what is large as a file of the session",
            field=field,
        )


class TaskRules:
    """What the settings of this node allow a task to be.

    The parts of a task are stored with its session until its result has expired, and those for a device that never
    comes wait: each has a bound.
    """

    def __init__(self, settings: Settings, planners: Planners) -> None:
        self._planners = planners
        self._timeout_s = settings.session_timeout_s
        self._most_s = settings.max_session_timeout_s
        self._request_bytes = settings.max_request_bytes
        self._metadata_bytes = settings.max_metadata_bytes
        self._commands_bytes = settings.max_commands_bytes

    def accept(
        self,
        asked: DispatchRequest,
        *,
        owner: str = "",
        request_id: str = "",
        fingerprint: str = "",
        check_name: Callable[[str], str] = check_task_name,
    ) -> NewTask:
        """The record of what is asked for. Raises ProtocolError, or TaskTooLarge, naming the field."""
        if not asked.request.strip():
            raise ProtocolError("Empty task content", field="request")
        self._check_sizes(asked)
        check_client_id(asked.client_id)
        if asked.task_name is not None:
            check_name(asked.task_name)
        if asked.planner is not None and asked.planner not in self._planners:
            raise ProtocolError(f"must be one of {', '.join(self._planners.names())}", field="planner")
        if asked.ttl_s is not None and not asked.queue_if_offline:
            raise ProtocolError("only with queue_if_offline", field="ttl_s")
        for name, seconds in (("timeout_s", asked.timeout_s), ("ttl_s", asked.ttl_s)):
            if seconds is not None and seconds > self._most_s:
                raise ProtocolError(f"must be at most {self._most_s:g}", field=name)
        return NewTask(
            client_id=asked.client_id,
            request=asked.request,
            task_name=asked.task_name or "",
            planner=asked.planner or "",
            timeout_s=asked.timeout_s or self._timeout_s,
            owner=owner,
            metadata=asked.metadata or {},
            commands=asked.commands or (),
            queue_for_s=(asked.ttl_s or QUEUE_FOR_S) if asked.queue_if_offline else None,
            max_attempts=asked.max_attempts or 1,
            request_id=request_id,
            fingerprint=fingerprint,
        )

    def _check_sizes(self, asked: DispatchRequest) -> None:
        # No character takes more than four bytes: most texts need not be encoded to be found small.
        if len(asked.request) * 4 > self._request_bytes:
            _check_size("request", len(asked.request.encode("utf-8", "surrogatepass")), self._request_bytes)
        if asked.metadata:
            _check_size("metadata", len(orjson.dumps(asked.metadata)), self._metadata_bytes)
        if asked.commands:
            size = sum(len(orjson.dumps(c.parameters)) + len(c.tool_name) for c in asked.commands)
            _check_size("commands", size, self._commands_bytes)


def from_message(client_id: str, request: str, task_name: str | None, metadata: Mapping[str, Any]) -> DispatchRequest:
    """What a `task` message asks for. Raises ProtocolError, naming the field."""
    rest = {name: value for name, value in metadata.items() if name not in IN_METADATA}
    given = {name: metadata[name] for name in IN_METADATA if name in metadata}
    if isinstance(commands := given.get("commands"), list):
        # Over a socket, unknown fields are ignored.
        given["commands"] = [
            {k: v for k, v in c.items() if k in Command.model_fields} if isinstance(c, dict) else c for c in commands
        ]
    try:
        return DispatchRequest.model_validate(
            {"client_id": client_id, "request": request, "task_name": task_name, "metadata": rest, **given}
        )
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(first["msg"], field=where) from None


def _check_size(field: str, size: int, bound: int) -> None:
    if size > bound:
        raise TaskTooLarge(field, size, bound)
