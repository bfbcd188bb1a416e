"""Devices other than UFO's: one that works on its own, and one that speaks the published documents' form."""

from typing import Any

from tests.integration.harness.peers import Frame
from tests.integration.harness.ufo import Message, Result, UfoDevice, now

__all__ = ["AutonomousDevice", "PayloadDevice"]


class AutonomousDevice(UfoDevice):
    """Takes a task and works on it without commands; the test says what it reports."""

    features = ("autonomous",)

    async def react(self, frame: Frame) -> None:
        """Nothing by itself."""

    async def report(self, task: Frame, status: str, *values: Any, error: str | None = None) -> None:
        """`command_results` for a task: progress with `continue`, the end with `completed` or `failed`."""
        await self.answer_with(
            task,
            [Result(status="failure" if error else "success", result=value) for value in values],
            status=status,
            error=error,
        )

    async def end(self, task: Frame, status: str, *, error: str | None = None) -> None:
        """`task_end` for a task."""
        await self.send(
            Message(
                type="task_end",
                status=status,
                session_id=task["session_id"],
                client_id=self.client_id,
                error=error,
                timestamp=now(),
            )
        )


class PayloadDevice(UfoDevice):
    """Speaks the request/response form, and writes names and values as the documents do: in upper case."""

    def registration(self) -> Message:
        """Asks for the payload form."""
        message = super().registration()
        assert message.metadata is not None
        message.metadata["aip_format"] = "payload"
        return message

    async def register(self) -> None:
        """`message_type` and upper case instead of UFO's spelling."""
        spelled = self.registration().model_dump(exclude_none=True)
        spelled["message_type"] = spelled.pop("type").upper()
        spelled["client_type"] = spelled["client_type"].upper()
        await self.send(spelled)
        await self.expect("heartbeat", status="ok")

    async def react(self, frame: Frame) -> None:
        """Answer each command by its request id."""
        if frame["type"] != "command" or not self.answers:
            return
        payload = frame["payload"]
        action = {"tool_name": payload["function"], "parameters": payload["arguments"], "call_id": None}
        result = self._execute(action)
        answer: Frame = {"status": "success", "data": result.result}
        if result.status == "failure":
            answer = {"status": "error", "error": result.error}
        await self.send(
            {
                "type": "result",
                "request_id": frame["request_id"],
                "timestamp": now(),
                "client_id": self.client_id,
                "payload": answer,
            }
        )
