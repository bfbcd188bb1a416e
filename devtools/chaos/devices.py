"""The devices of a run: light ones that behave on the wire as `aip-device` does, and ones that behave as UFO's client.

Both carry out `work`: each command is a side effect with a name of its own, noted in the ledger as it happens. A light
device does a command once, whatever is sent twice, keeps answers that could not be sent, and forgets both when its
process is replaced. UFO's repeats each task without its session id, remembers nothing, and gives up after five failed
attempts, which is noted (and then tried again, so that the run goes on).
"""

import asyncio
import random
from collections import deque
from typing import ClassVar

from devtools.chaos.ledger import Deed, Ledger
from devtools.chaos.wire import Client, Frame
from devtools.proxy import Proxy

__all__ = ["LightDevice", "UfoDevice"]

OUTBOX_BOUND = 512
# UFO's client: 2, 4, 8, 16 s, then no more.
UFO_ATTEMPTS = 5


class _Worker(Client):
    """Carries out commands; what becomes of an answer is the subclass's affair."""

    def __init__(self, client_id: str, line: Proxy, ledger: Ledger, rng: random.Random) -> None:
        super().__init__(client_id, line, ledger, rng)
        self.life = 1
        self._working: dict[asyncio.Task[None], Frame] = {}

    def metadata(self) -> Frame:
        return {
            "platform": "linux",
            "tools": [
                {
                    "tool_name": "work",
                    "tool_type": "action",
                    "namespace": "light",
                    "description": "Has an effect.",
                    "input_schema": {"type": "object", "properties": {"effect": {"type": "string"}}},
                }
            ],
            "system_info": {
                "device_id": self.client_id,
                "platform": "linux",
                "supported_features": list(self.features),
                "schema_version": "1.0",
            },
        }

    def begin(self, command: Frame) -> None:
        """Carry out a command beside whatever else goes on."""
        task = asyncio.create_task(self._work(command), name=f"work {self.client_id}")
        self._working[task] = command
        task.add_done_callback(lambda done: self._working.pop(done, None))

    async def _work(self, command: Frame) -> None:
        results: list[Frame] = []
        for action in command.get("actions") or []:
            parameters = action.get("parameters") or {}
            if results and results[-1]["status"] != "success":
                results.append({"status": "skipped", "call_id": action.get("call_id")})
                continue
            self.ledger.executed(self.client_id, self.life, command["response_id"], parameters["effect"])
            await asyncio.sleep(parameters.get("took_ms", 0) / 1000)
            done = {"status": "success", "result": {"effect": parameters["effect"]}, "call_id": action.get("call_id")}
            if action["tool_name"] == "fail":
                done = {"status": "failure", "error": "it was told to fail", "call_id": action.get("call_id")}
            results.append(done)
        self.on_worked(
            command,
            self.frame(
                "command_results",
                status=command.get("status", "continue"),
                session_id=command.get("session_id"),
                prev_response_id=command["response_id"],
                action_results=results,
            ),
        )

    def on_worked(self, command: Frame, answer: Frame) -> None:
        """A command was carried out."""
        raise NotImplementedError

    def stop_work(self, session_id: str | None = None) -> list[Frame]:
        """Drop what is under way (of one session); returns the commands that were."""
        stopped = [c for c in self._working.values() if session_id is None or c.get("session_id") == session_id]
        for task, command in list(self._working.items()):
            if command in stopped:
                task.cancel()
        return stopped

    async def restart(self, for_s: float, *, in_order: bool) -> None:
        """The process ends, in order or killed, and another comes `for_s` later: it remembers nothing."""
        self.stop_work()
        self._resume_token = None
        self.life += 1
        await self.leave(for_s, in_order=in_order)


class LightDevice(_Worker):
    """As `aip-device` on the wire."""

    features: ClassVar[tuple[str, ...]] = ("commands_without_echo", "deduplicates", "resume")

    def __init__(self, client_id: str, line: Proxy, ledger: Ledger, rng: random.Random) -> None:
        super().__init__(client_id, line, ledger, rng)
        self._answers: dict[str, Frame] = {}
        self._in_hand: set[str] = set()
        self._outbox: deque[Frame] = deque(maxlen=OUTBOX_BOUND)
        self._sending: asyncio.Task[None] | None = None

    def on_connected(self) -> None:
        self._flush()

    def on_frame(self, frame: Frame) -> None:
        if frame["type"] == "command":
            response_id = frame["response_id"]
            if response_id in self._answers:
                self._put(self._answers[response_id])
            elif response_id not in self._in_hand:
                self._in_hand.add(response_id)
                self.begin(frame)
        elif frame["type"] == "task_end":
            for command in self.stop_work(frame.get("session_id")):
                # Sent again it must not run after all.
                self._answers[command["response_id"]] = self.frame(
                    "command_results",
                    status="continue",
                    session_id=command.get("session_id"),
                    prev_response_id=command["response_id"],
                    action_results=[{"status": "failure", "error": "cancelled, because its session ended"}],
                )

    def on_worked(self, command: Frame, answer: Frame) -> None:
        self._in_hand.discard(command["response_id"])
        self._answers[command["response_id"]] = answer
        self._put(answer)

    def _put(self, answer: Frame) -> None:
        self._outbox.append(answer)
        self._flush()

    def _flush(self) -> None:
        if self.connected and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send_all(), name=f"answers {self.client_id}")

    async def _send_all(self) -> None:
        while self._outbox and await self.send(self._outbox[0]):
            self._outbox.popleft()

    async def restart(self, for_s: float, *, in_order: bool) -> None:
        self._answers.clear()
        self._in_hand.clear()
        self._outbox.clear()
        await super().restart(for_s, in_order=in_order)


class UfoDevice(_Worker):
    """As UFO's client on the wire."""

    features: ClassVar[tuple[str, ...]] = ("gui", "cli")

    def on_frame(self, frame: Frame) -> None:
        if frame["type"] == "task":
            echo = self.frame(
                "task",
                status="continue",
                session_id=None,
                task_name=frame.get("task_name"),
                request=frame.get("user_request"),
            )
            self._say(echo)
        elif frame["type"] == "command":
            self.begin(frame)

    def on_worked(self, command: Frame, answer: Frame) -> None:  # noqa: ARG002
        self._say(answer)

    def _say(self, frame: Frame) -> None:
        task = asyncio.create_task(self._say_once(frame), name=f"say {self.client_id}")
        self._working[task] = {}
        task.add_done_callback(lambda done: self._working.pop(done, None))

    async def _say_once(self, frame: Frame) -> None:
        await self.send(frame)

    def next_delay_s(self) -> float:
        if self._failures >= UFO_ATTEMPTS:
            self.ledger.note(Deed.GAVE_UP, self.client_id, text=f"after {self._failures} attempts")
            self._failures = 0
        return float(2 ** max(1, self._failures))
