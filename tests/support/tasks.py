"""A task of two commands for `device-1`: dispatched, answered, looked after."""

from typing import Any

from aip_cluster.protocol import Result, ResultStatus, ServerMessage
from node.app import Node
from shared_state.sessions import SessionState
from tests.support.asgi import Socket, rest
from tests.support.wait import until

__all__ = ["GONE", "OK", "dispatch", "next_of", "state_is"]

COMMANDS = [{"tool_name": "one"}, {"tool_name": "two"}]
OK = Result(status=ResultStatus.SUCCESS, result=1)
# The error of a session whose device went and does not come back.
GONE = "Task was cancelled because target device disconnected"


async def dispatch(node: Node, **change: Any) -> str:
    """A task of two commands for `device-1`, accepted."""
    async with rest(node) as api:
        answer = await api.post(
            "/api/dispatch", json={"client_id": "device-1", "request": "do it", "commands": COMMANDS} | change
        )
        assert answer.status_code == 200, answer.text
        session_id: str = answer.json()["session_id"]
        return session_id


async def state_is(node: Node, session_id: str, state: SessionState) -> None:
    """Wait for a state."""

    async def reached() -> bool:
        found = await node.state.sessions.find(session_id)
        return found is not None and found.state is state

    await until(reached, f"the session is {state}")


async def next_of(client: Socket, kind: str) -> ServerMessage:
    """Skip to the next message of this type."""
    while True:
        message = await client.receive()
        if message.type == kind:
            return message
