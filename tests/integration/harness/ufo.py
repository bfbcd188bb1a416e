"""What UFO's clients write, byte for byte: every field of the message, `null` and defaults included.

Written from the wire, with models of their own, so that a change of this project's models cannot hide a change of the
protocol.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from tests.integration.harness.peers import Frame, Peer

__all__ = ["Message", "Result", "UfoConstellation", "UfoDevice", "now", "system_info"]


def now() -> str:
    """A time stamp as UFO writes it."""
    return datetime.now(UTC).isoformat()


class Result(BaseModel):
    """UFO's Result, fields in its order."""

    status: str
    error: str | None = None
    result: Any = None
    namespace: str | None = None
    call_id: str | None = None


class Message(BaseModel):
    """UFO's ClientMessage, fields in its order; `model_dump_json` writes all of them."""

    type: str
    status: str
    client_type: str = "device"
    session_id: str | None = None
    task_name: str | None = None
    client_id: str | None = None
    target_id: str | None = None
    request: str | None = None
    action_results: list[Result] | None = None
    timestamp: str | None = None
    request_id: str | None = None
    prev_response_id: str | None = None
    error: str | None = None
    metadata: dict[str, Any] | None = None


def system_info(device_id: str, platform: str, features: list[str]) -> Frame:
    """What a UFO device says of its machine."""
    return {
        "device_id": device_id,
        "platform": platform,
        "os_version": "6.1.0",
        "cpu_count": 8,
        "memory_total_gb": 15.6,
        "hostname": "workstation",
        "ip_address": "192.0.2.7",
        "supported_features": features,
        "platform_type": "computer",
        "schema_version": "1.0",
        "custom_metadata": {},
    }


class UfoPeer(Peer):
    """A client that registers."""

    async def register(self) -> None:
        """Say who this is; the node accepts."""
        await self.send(self.registration())
        answer = await self.first_answer()
        if answer["type"] == "error":
            pytest.fail(f"{self.client_id} was refused: {answer['error']}")

    def registration(self) -> Message:
        """The first message."""
        raise NotImplementedError

    async def heartbeat(self) -> None:
        """A heartbeat: `client_type` keeps its default, also in orchestrators."""
        await self.send(Message(type="heartbeat", status="ok", client_id=self.client_id, timestamp=now()))


class UfoDevice(UfoPeer):
    """UFO's device client: repeats each task without its session id, executes commands in order, answers once.

    Tools: `echo` gives back its parameters, `fail` fails, `big` gives text of a size, `hang` never ends (and no answer
    is given at all), anything else succeeds.
    """

    features: tuple[str, ...] = ("gui", "cli")
    # Whether questions for its tools are for `answer`, and heard.
    lists_tools = False

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        platform: str = "linux",
        echoes: bool = True,
        answers: bool = True,
        features: tuple[str, ...] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(url, client_id, headers=headers)
        self.platform = platform
        self.echoes = echoes
        self.answers = answers
        self.features = features if features is not None else self.features
        self.executed: list[Frame] = []

    def registration(self) -> Message:
        """With platform, system info, and time."""
        metadata = {
            "system_info": system_info(self.client_id, self.platform, list(self.features)),
            "platform": self.platform,
            "registration_time": now(),
        }
        return Message(type="register", status="ok", client_id=self.client_id, timestamp=now(), metadata=metadata)

    async def answer_aside(self, frame: Frame) -> bool:
        """A question for its tools: it does not say which it has, and takes any."""
        actions = frame.get("actions")
        if self.lists_tools or not actions or actions[0]["tool_name"] != "list_tools":
            return False
        await self.answer_with(frame, [Result(status="none", call_id=actions[0]["call_id"])])
        return True

    async def react(self, frame: Frame) -> None:
        """Repeat tasks, execute commands."""
        if frame["type"] == "task" and self.echoes:
            await self.echo(frame)
        elif frame["type"] == "command" and self.answers:
            await self.answer(frame)

    async def echo(self, task: Frame) -> None:
        """Ask the node to run the task that it sent."""
        await self.send(
            Message(
                type="task",
                status="continue",
                task_name=task["task_name"],
                client_id=self.client_id,
                request=task["user_request"],
                request_id=str(uuid4()),
                timestamp=now(),
                metadata={"platform": self.platform},
            )
        )

    async def answer(self, message: Frame) -> None:
        """Execute the actions of a `command`, and answer once for all."""
        results: list[Result] = []
        for action in message["actions"]:
            if action["tool_name"] == "hang":
                return
            if any(r.status == "failure" for r in results):
                results.append(Result(status="skipped", error="Skipped due to early exit", call_id=action["call_id"]))
            else:
                results.append(self._execute(action))
        await self.answer_with(message, results)

    async def answer_with(self, message: Frame, results: list[Result], **changes: object) -> None:
        """Send `command_results` for a `command`, with any field changed."""
        answer = Message(
            type="command_results",
            status=message["status"],
            session_id=message["session_id"],
            client_id=self.client_id,
            action_results=results,
            timestamp=now(),
            request_id=str(uuid4()),
            prev_response_id=message["response_id"],
        )
        await self.send(answer.model_copy(update=changes))

    def _execute(self, action: Frame) -> Result:
        self.executed.append(action)
        parameters = action.get("parameters") or {}
        if action["tool_name"] == "fail":
            return Result(status="failure", error=parameters.get("error", "it failed"), call_id=action["call_id"])
        value: object = parameters
        if action["tool_name"] == "big":
            value = "x" * int(parameters["size"])
        return Result(status="success", result=value, namespace="BashExecutor", call_id=action["call_id"])


class UfoConstellation(UfoPeer):
    """UFO's orchestrator: one socket per device, `<name>@<device>`. Without a device: a client id of its own."""

    def __init__(self, url: str, name: str, device_id: str | None, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(url, f"{name}@{device_id}" if device_id else name, headers=headers)
        self.name = name
        self.device_id = device_id

    def registration(self) -> Message:
        """With the device that is meant."""
        metadata = {
            "type": "constellation_client",
            "constellation_id": self.name,
            "targeted_device_id": self.device_id,
            "capabilities": ["task_distribution", "session_management", "device_coordination"],
            "version": "2.0",
        }
        return Message(
            type="register",
            status="ok",
            client_type="constellation",
            client_id=self.client_id,
            target_id=self.device_id,
            timestamp=now(),
            metadata=metadata,
        )

    async def task(self, *commands: Frame, number: int = 3, **changes: object) -> str:
        """Send task `number`; returns its session id. UFO's own tasks carry no commands; any field may be changed."""
        message = Message(
            type="task",
            status="continue",
            client_type="constellation",
            session_id=f"{self.name}@task_{number}",
            task_name=f"galaxy/{self.name}/step{number}",
            client_id=self.client_id,
            target_id=self.device_id,
            request=f"do step {number}",
            timestamp=now(),
            request_id=str(uuid4()),
            metadata={"commands": list(commands)} if commands else None,
        ).model_copy(update=changes)
        await self.send(message)
        return str(message.session_id)

    async def ask_for_device(self, target_id: str | None) -> str:
        """Send `device_info_request`; returns its request id."""
        request_id = str(uuid4())
        await self.send(
            Message(
                type="device_info_request",
                status="ok",
                client_type="constellation",
                client_id=self.client_id,
                target_id=target_id,
                timestamp=now(),
                request_id=request_id,
            )
        )
        return request_id
