"""What a session sends to its device: the task, and commands."""

from typing import Any

from aip_cluster.protocol import ServerMessage, ServerMessageType, TaskStatus, utc_now
from aip_cluster.protocol.codec import encode_payload_command
from node.sessions.live_session import LiveSession
from node.sessions.secrets import ToolSecrets
from node.sessions.session import SendTask
from node.sessions.step import Message

__all__ = ["send_commands", "send_task"]


def send_task(session: LiveSession, _: SendTask) -> None:
    """Send the TASK message, under the same id however often."""
    spec, names, timing = session.spec, session.machine.names, session.timing
    timing.delivered()
    fields: dict[str, Any] = {
        "type": "task",
        "status": "continue",
        "user_request": spec.request,
        "task_name": spec.task_name,
        "session_id": spec.session_id,
        "response_id": spec.response_id,
        "timestamp": utc_now(),
    }
    if names.agent_name is not None:
        fields["agent_name"] = names.agent_name
    if names.process_name is not None:
        fields["process_name"] = names.process_name
    if names.root_name is not None:
        fields["root_name"] = names.root_name
    if (carried := timing.carried) is not None:
        fields["metadata"] = carried
    session.connection.send_fields(ServerMessageType.TASK, fields)


def send_commands(session: LiveSession, message: Message, secrets: ToolSecrets) -> None:
    """Send commands, with their secrets: what a dispatch gave stays, what a model made up does not."""
    given_wins = not session.planner.wants_tools
    commands = [
        # How long the device may take is no business of its own.
        secrets.fill(c.model_copy(update={"timeout_s": None}) if c.timeout_s else c, given_wins=given_wins)
        for c in message.commands
    ]
    if session.connection.payload_format:
        session.connection.send_raw(encode_payload_command(commands[0], message.response_id, utc_now()))
        return
    session.connection.send(
        ServerMessage(
            type=ServerMessageType.COMMAND,
            status=TaskStatus.CONTINUE,
            session_id=session.session_id,
            task_name=session.spec.task_name,
            response_id=message.response_id,
            metadata=session.timing.carried,
            actions=commands,
            agent_name=message.names.agent_name,
            process_name=message.names.process_name,
            root_name=message.names.root_name,
        )
    )
