"""The messages of the Agent Interaction Protocol, version of UFO³ (`microsoft/UFO`, `aip/messages.py`).

Every message is one flat JSON object. Unknown fields are ignored; absent and null are the same. Fields, names and
values here are fixed by the clients in the field: adding one is harmless, changing one breaks them.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "COMMANDS_BOUND",
    "ClientMessage",
    "ClientMessageType",
    "ClientType",
    "Command",
    "Result",
    "ResultStatus",
    "ServerMessage",
    "ServerMessageType",
    "TaskStatus",
]


# Commands of one task.
COMMANDS_BOUND = 256
# Each is checked and copied by itself.
RESULTS_BOUND = 1024
LINES_BOUND = 10_000


class _Word(StrEnum):
    """A value of the protocol. The published documents write them in upper case, clients in the field in lower case."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        lower = value.lower() if isinstance(value, str) else None
        return next((member for member in cls if member.value == lower), None)


class ClientType(_Word):
    """Who is speaking: one that executes, or one that orchestrates."""

    DEVICE = "device"
    CONSTELLATION = "constellation"


class TaskStatus(_Word):
    """The `status` of a message."""

    CONTINUE = "continue"
    COMPLETED = "completed"
    FAILED = "failed"
    OK = "ok"
    ERROR = "error"


class ResultStatus(_Word):
    """How one command ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    SKIPPED = "skipped"
    NONE = "none"


class ClientMessageType(_Word):
    """What a client may say."""

    REGISTER = "register"
    TASK = "task"
    HEARTBEAT = "heartbeat"
    COMMAND_RESULTS = "command_results"
    TASK_END = "task_end"
    ERROR = "error"
    DEVICE_INFO_REQUEST = "device_info_request"
    DEVICE_INFO_RESPONSE = "device_info_response"


class ServerMessageType(_Word):
    """What a server may say."""

    TASK = "task"
    COMMAND = "command"
    TASK_END = "task_end"
    HEARTBEAT = "heartbeat"
    DEVICE_INFO_REQUEST = "device_info_request"
    DEVICE_INFO_RESPONSE = "device_info_response"
    ERROR = "error"


def _or_action(value: object) -> object:
    if value is None:
        return "action"
    return value.lower() if isinstance(value, str) else value


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", validate_by_name=True, validate_by_alias=True, strict=False)


class Command(_Wire):
    """One tool call: `call_id` comes back with its Result."""

    tool_name: str
    parameters: dict[str, Any] | None = None
    tool_type: Annotated[Literal["action", "data_collection"], BeforeValidator(_or_action)] = "action"
    call_id: str | None = None
    # Not in UFO's model, and not sent to a device: how long the device may take to answer.
    timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)


class Result(_Wire):
    """The outcome of one Command. `result` is whatever the tool returned."""

    status: ResultStatus
    result: Any = None
    error: str | None = None
    namespace: str | None = None
    call_id: str | None = None


class ClientMessage(_Wire):
    """A message from a client to the server. `message_type` is accepted for `type`."""

    type: ClientMessageType = Field(validation_alias=AliasChoices("type", "message_type"))
    status: TaskStatus = TaskStatus.OK
    client_type: ClientType = ClientType.DEVICE
    client_id: str | None = None
    target_id: str | None = None
    session_id: str | None = None
    task_name: str | None = None
    request: str | None = None
    action_results: Annotated[list[Result], Field(max_length=RESULTS_BOUND)] | None = None
    request_id: str | None = None
    prev_response_id: str | None = None
    timestamp: str | None = None
    error: str | None = None
    metadata: dict[str, Any] | None = None
    # Not in UFO's model: a device that works on its own may give its answer, and its log lines, beside or
    # instead of `action_results`.
    result: Any = None
    messages: Annotated[list[str], Field(max_length=LINES_BOUND)] | None = None


class ServerMessage(_Wire):
    """A message from the server to a client. `response_id` is always set and unique."""

    type: ServerMessageType = Field(validation_alias=AliasChoices("type", "message_type"))
    status: TaskStatus = TaskStatus.OK
    user_request: str | None = None
    agent_name: str | None = None
    process_name: str | None = None
    root_name: str | None = None
    actions: list[Command] | None = None
    messages: list[str] | None = None
    error: str | None = None
    session_id: str | None = None
    task_name: str | None = None
    timestamp: str | None = None
    response_id: str | None = None
    result: Any = None
    metadata: dict[str, Any] | None = None
