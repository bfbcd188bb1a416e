"""Hypothesis strategies for what is said on the wire."""

from typing import Any

from hypothesis import strategies as st

from aip_cluster.protocol import (
    ClientMessage,
    ClientMessageType,
    ClientType,
    Command,
    Result,
    ResultStatus,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
)

__all__ = ["client_messages", "hostile_objects", "json_values", "server_messages"]

_text = st.text(max_size=20)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text
)
json_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=15,
)
_objects = st.dictionaries(_text, json_values, max_size=4)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_commands = st.builds(
    Command,
    tool_name=_text,
    parameters=_maybe(_objects),
    tool_type=st.sampled_from(["action", "data_collection"]),
    call_id=_maybe(_text),
)
_results = st.builds(
    Result,
    status=st.sampled_from(ResultStatus),
    result=json_values,
    error=_maybe(_text),
    namespace=_maybe(_text),
    call_id=_maybe(_text),
)
client_messages = st.builds(
    ClientMessage,
    type=st.sampled_from(ClientMessageType),
    status=st.sampled_from(TaskStatus),
    client_type=st.sampled_from(ClientType),
    **{
        name: _maybe(_text)
        for name in (
            *("client_id", "target_id", "session_id", "task_name", "request"),
            *("request_id", "prev_response_id", "timestamp", "error"),
        )
    },
    action_results=_maybe(st.lists(_results, max_size=3)),
    metadata=_maybe(_objects),
    result=json_values,
    messages=_maybe(st.lists(_text, max_size=3)),
)
server_messages = st.builds(
    ServerMessage,
    type=st.sampled_from(ServerMessageType),
    status=st.sampled_from(TaskStatus),
    **{
        name: _maybe(_text)
        for name in (
            *("user_request", "agent_name", "process_name", "root_name", "error"),
            *("session_id", "task_name", "timestamp", "response_id"),
        )
    },
    actions=_maybe(st.lists(_commands, max_size=3)),
    messages=_maybe(st.lists(_text, max_size=3)),
    result=json_values,
    metadata=_maybe(_objects),
)

_FIELDS = sorted({*ClientMessage.model_fields, *ServerMessage.model_fields, "message_type", "payload", "unknown"})
_WORDS = sorted({*ClientMessageType, *ServerMessageType, *TaskStatus, *ResultStatus, *ClientType, "result"})
_words = st.sampled_from(_WORDS) | st.sampled_from(_WORDS).map(str.upper)
_inner = st.dictionaries(
    st.sampled_from(["status", "result", "error", "data", "tool_name", "tool_type", "parameters", "call_id", "x"]),
    _words | json_values,
    max_size=5,
)
# Near what is valid: the right names with values of any kind.
hostile_objects = st.dictionaries(
    st.sampled_from(_FIELDS), _words | _inner | st.lists(_inner, max_size=3) | json_values, max_size=8
)
