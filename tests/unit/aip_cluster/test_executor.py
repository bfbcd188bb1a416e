"""Commands to results: order, bounds, repetition and cancellation, with tools that the test controls."""

import asyncio
from typing import Any

import orjson
import pytest

from aip_cluster.device.executor import AnswerMemory, Executor
from aip_cluster.device.origin import Origin
from aip_cluster.device.toolbox import ToolFailed, ToolValue
from aip_cluster.protocol import Command, ServerMessage, ServerMessageType, TaskStatus


class Tools:
    """`ok` returns its parameters, `fail` fails, `wait` blocks until `release`, `odd` returns what JSON cannot hold."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.origins: list[Origin] = []
        self.cancelled: list[Any] = []
        self.started = asyncio.Semaphore(0)
        self.release = asyncio.Event()

    async def call(self, command: Command, origin: Origin) -> ToolValue:
        self.origins.append(origin)
        tag = (command.parameters or {}).get("tag")
        self.calls.append(tag)
        match command.tool_name:
            case "fail":
                raise ToolFailed("it broke", namespace="local")
            case "crash":
                raise RuntimeError("a bug")
            case "odd":
                return ToolValue({1, 2})
            case "big":
                return ToolValue("x" * 5000, "local")
            case "wait":
                self.started.release()
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.append(tag)
                    raise
        return ToolValue({"tag": tag}, "local")


class Bench:
    """An executor with its tools and the answers it gave."""

    def __init__(self, **limits: int) -> None:
        self.tools = Tools()
        self.frames: list[bytes] = []
        self._answered = asyncio.Semaphore(0)
        self.executor = Executor(self.tools, "lab-1", self._take, **limits)

    def _take(self, response_id: str | None, frame: bytes) -> None:
        self.frames.append(frame)
        self._answered.release()

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [orjson.loads(frame) for frame in self.frames]

    async def answered(self, count: int = 1) -> list[dict[str, Any]]:
        async with asyncio.timeout(20):
            for _ in range(count):
                await self._answered.acquire()
        return self.answers

    async def started(self, count: int = 1) -> None:
        async with asyncio.timeout(20):
            for _ in range(count):
                await self.tools.started.acquire()

    def submit(self, response_id: str | None, *names: str, session_id: str = "s") -> None:
        self.executor.submit(command(response_id, *names, session_id=session_id))


def command(response_id: str | None, *names: str, session_id: str = "s") -> ServerMessage:
    actions = [
        Command(tool_name=name, parameters={"tag": response_id}, call_id=f"{response_id}/{index}")
        for index, name in enumerate(names)
    ]
    return ServerMessage(
        type=ServerMessageType.COMMAND,
        status=TaskStatus.CONTINUE,
        session_id=session_id,
        response_id=response_id,
        actions=actions,
    )


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_command_is_answered_once_with_a_result_per_action_in_order() -> None:
    bench = Bench()
    bench.submit("r1", "ok", "ok")
    (answer,) = await bench.answered()
    assert answer["type"] == "command_results"
    assert (answer["status"], answer["client_id"], answer["client_type"]) == ("continue", "lab-1", "device")
    assert (answer["session_id"], answer["prev_response_id"]) == ("s", "r1")
    assert answer["request_id"]
    assert answer["timestamp"]
    assert answer["action_results"] == [
        {"status": "success", "result": {"tag": "r1"}, "namespace": "local", "call_id": f"r1/{index}"}
        for index in (0, 1)
    ]


async def test_a_tool_is_told_the_session_and_the_agent_of_its_command() -> None:
    bench = Bench()
    message = command("r1", "ok")
    message.agent_name = "LinuxAgent"
    bench.executor.submit(message)
    await bench.answered()
    assert bench.tools.origins == [Origin("s", "LinuxAgent")]


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        ({"traceparent": "00-a-b-01", "other": 1}, {"traceparent": "00-a-b-01"}),
        ({"traceparent": 5}, None),
        ({}, None),
        (None, None),
    ],
)
async def test_an_answer_stands_where_its_command_stands_in_a_trace(
    came: dict[str, Any] | None, goes: dict[str, Any] | None
) -> None:
    bench = Bench()
    message = command("r1", "ok")
    message.metadata = came
    bench.executor.submit(message)
    (answer,) = await bench.answered()
    assert answer.get("metadata") == goes
    await bench.executor.close()


async def test_after_a_failure_the_rest_are_skipped_and_say_so() -> None:
    bench = Bench()
    bench.submit("r1", "ok", "fail", "ok", "ok")
    (answer,) = await bench.answered()
    results = answer["action_results"]
    assert [result["status"] for result in results] == ["success", "failure", "skipped", "skipped"]
    assert results[1]["error"] == "it broke"
    assert results[3]["error"] == "skipped, because an action before it failed"
    assert [result["call_id"] for result in results] == ["r1/0", "r1/1", "r1/2", "r1/3"]
    assert len(bench.tools.calls) == 2


async def test_a_command_without_actions_is_answered_with_no_results() -> None:
    bench = Bench()
    bench.submit("r1")
    (answer,) = await bench.answered()
    assert answer["action_results"] == []


async def test_a_bug_in_a_tool_becomes_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.submit("r1", "crash")
    (answer,) = await bench.answered()
    assert answer["action_results"][0]["error"] == "internal error of the device"
    assert "raised what it may not raise" in caplog.text


async def test_a_result_that_json_cannot_carry_fails_alone() -> None:
    bench = Bench()
    bench.submit("r1", "ok", "odd")
    (answer,) = await bench.answered()
    first, second = answer["action_results"]
    assert first["status"] == "success"
    assert second["status"] == "failure"
    assert second["error"].startswith("the result cannot be sent: ")


async def test_a_result_that_is_too_large_for_an_answer_fails_alone() -> None:
    bench = Bench(max_answer_bytes=4096)
    bench.submit("r1", "ok", "big")
    (answer,) = await bench.answered()
    first, second = answer["action_results"]
    assert first["status"] == "success"
    assert second["error"] == "the result cannot be sent: the answer would be larger than 4096 bytes"


async def test_the_commands_of_a_session_run_in_order_and_sessions_side_by_side() -> None:
    bench = Bench()
    bench.submit("a1", "wait", session_id="a")
    bench.submit("a2", "ok", session_id="a")
    bench.submit("b1", "ok", session_id="b")
    answers = await bench.answered()
    assert [answer["prev_response_id"] for answer in answers] == ["b1"]
    bench.tools.release.set()
    answers = await bench.answered(2)
    assert [answer["prev_response_id"] for answer in answers] == ["b1", "a1", "a2"]


async def test_no_more_commands_run_at_a_time_than_allowed() -> None:
    bench = Bench(max_in_flight=2)
    for name in "abcd":
        bench.submit(name, "wait", session_id=name)
    await bench.started(2)
    await settle()
    assert bench.tools.calls == ["a", "b"]
    bench.tools.release.set()
    await bench.answered(4)
    assert bench.tools.calls == ["a", "b", "c", "d"]


async def test_beyond_the_queue_the_answer_is_that_the_device_is_busy() -> None:
    bench = Bench(max_in_flight=1, max_waiting=1)
    bench.submit("a", "wait", session_id="a")
    bench.submit("b", "ok", session_id="b")
    bench.submit("c", "ok", "ok", session_id="c")
    (answer,) = await bench.answered()
    assert answer["prev_response_id"] == "c"
    assert [result["status"] for result in answer["action_results"]] == ["failure", "skipped"]
    assert answer["action_results"][0]["error"] == "device busy"
    bench.tools.release.set()
    await bench.answered(2)
    assert bench.tools.calls == ["a", "b"]


async def test_a_repeated_command_is_ignored_while_it_runs_or_waits() -> None:
    bench = Bench()
    for _ in range(2):
        bench.submit("r1", "wait")
        bench.submit("r2", "ok")
    bench.tools.release.set()
    await bench.answered(2)
    await settle()
    assert bench.tools.calls == ["r1", "r2"]
    assert len(bench.frames) == 2


async def test_a_repeated_command_that_was_answered_is_answered_again_and_not_run_again() -> None:
    bench = Bench()
    bench.submit("r1", "ok")
    await bench.answered()
    await settle()
    bench.submit("r1", "ok")
    await bench.answered()
    assert bench.frames[0] == bench.frames[1]
    assert bench.tools.calls == ["r1"]


async def test_commands_without_an_id_are_not_taken_for_each_other() -> None:
    bench = Bench()
    bench.submit(None, "ok")
    bench.submit(None, "ok")
    assert len(await bench.answered(2)) == 2


async def test_the_end_of_a_session_cancels_what_runs_and_drops_what_waits() -> None:
    bench = Bench()
    bench.submit("a1", "wait", session_id="a")
    bench.submit("a2", "ok", session_id="a")
    bench.submit("b1", "wait", session_id="b")
    await bench.started(2)
    bench.executor.end_session("a")
    await settle()
    assert bench.tools.cancelled == ["a1"]
    bench.tools.release.set()
    answers = await bench.answered()
    assert [answer["prev_response_id"] for answer in answers] == ["b1"]
    assert "a2" not in bench.tools.calls


async def test_the_end_of_a_session_makes_room_for_another() -> None:
    bench = Bench(max_in_flight=1)
    bench.submit("a", "wait", session_id="a")
    bench.submit("b", "ok", session_id="b")
    await bench.started()
    bench.executor.end_session("a")
    (answer,) = await bench.answered()
    assert answer["prev_response_id"] == "b"


async def test_a_cancelled_command_that_is_sent_again_is_answered_and_not_run() -> None:
    bench = Bench()
    bench.submit("a1", "wait")
    bench.submit("a2", "ok")
    await bench.started()
    bench.executor.end_session("s")
    await settle()
    for response_id in ("a1", "a2"):
        bench.submit(response_id, "ok")
    answers = await bench.answered(2)
    assert [answer["prev_response_id"] for answer in answers] == ["a1", "a2"]
    assert {answer["action_results"][0]["error"] for answer in answers} == {"cancelled, because its session ended"}
    assert bench.tools.calls == ["a1"]


async def test_the_end_of_an_unknown_session_is_nothing() -> None:
    Bench().executor.end_session("nobody")


async def test_closing_cancels_everything_and_takes_no_more() -> None:
    bench = Bench()
    bench.submit("a", "wait", session_id="a")
    bench.submit("b", "wait", session_id="b")
    await bench.started(2)
    await bench.executor.close()
    bench.submit("c", "ok", session_id="c")
    await settle()
    assert sorted(bench.tools.cancelled) == ["a", "b"]
    assert bench.frames == []
    await bench.executor.close()


def test_the_memory_of_answers_is_bounded_by_number_and_by_size() -> None:
    memory = AnswerMemory(max_entries=2, max_bytes=10)
    memory.put("a", b"1")
    memory.put("b", b"2")
    assert memory.get("a") == b"1"
    memory.put("c", b"3")
    assert [memory.get(key) for key in "abc"] == [b"1", None, b"3"]
    memory.put("d", b"x" * 10)
    assert [memory.get(key) for key in "acd"] == [None, None, b"x" * 10]
    memory.put("d", b"y")
    memory.put("e", b"z" * 9)
    assert [memory.get(key) for key in "de"] == [b"y", b"z" * 9]
