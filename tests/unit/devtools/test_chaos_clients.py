"""The clients of `scripts/chaos` and the network before them, against a small real server."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve

from devtools.chaos.devices import LightDevice, UfoDevice
from devtools.chaos.ledger import Deed, Ledger
from devtools.chaos.model import Model
from devtools.chaos.plan import Plan
from devtools.chaos.tasks import TaskMaker, body_of, commands_of
from devtools.proxy import Proxy
from tests.support.wait import PATIENCE_S, until

Json = dict[str, Any]
COMMAND: Json = {
    "type": "command",
    "status": "continue",
    "session_id": "s-1",
    "response_id": "r-1",
    "actions": [{"tool_name": "work", "parameters": {"effect": "t#1"}, "call_id": "c-1"}],
}


class Server:
    """Takes every registration, and keeps what it hears."""

    def __init__(self) -> None:
        self.sockets: list[ServerConnection] = []
        self.heard: asyncio.Queue[Json] = asyncio.Queue()
        self.port = 0

    async def serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        async for raw in socket:
            frame = orjson.loads(raw)
            if frame["type"] == "register":
                result = {"resume_token": f"token-{len(self.sockets)}"}
                await self.say({"type": "heartbeat", "status": "ok", "result": result})
            await self.heard.put(frame)

    async def say(self, frame: Json) -> None:
        await self.sockets[-1].send(orjson.dumps(frame).decode())

    async def hear(self, kind: str) -> Json:
        """The next frame of a type."""
        async with asyncio.timeout(PATIENCE_S):
            while (frame := await self.heard.get())["type"] != kind:
                pass
        return frame


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with serve(server.serve, "127.0.0.1", 0) as running:
        server.port = next(iter(running.sockets)).getsockname()[1]
        yield server


@asynccontextmanager
async def connected(server: Server, kind: type[LightDevice | UfoDevice]) -> AsyncIterator[LightDevice | UfoDevice]:
    """A device that is registered over a line of its own."""
    line = Proxy(server.port)
    await line.open()
    device = kind("d-1", line, Ledger(), random.Random(1))
    life = asyncio.create_task(device.run())
    try:
        await server.hear("register")
        yield device
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await line.close()


def effects(device: LightDevice | UfoDevice) -> list[str]:
    return [execution.effect for execution in device.ledger.executions]


async def test_a_light_device_does_a_command_once_and_answers_it_again(server: Server) -> None:
    async with connected(server, LightDevice) as device:
        for _ in range(2):
            await server.say(COMMAND)
            answer = await server.hear("command_results")
            assert answer["prev_response_id"] == "r-1"
            assert answer["action_results"][0]["result"] == {"effect": "t#1"}
        assert effects(device) == ["t#1"]


class HeldDevice(LightDevice):
    """Works on a command only once the test lets it."""

    def __init__(self, client_id: str, line: Proxy, ledger: Ledger, rng: random.Random) -> None:
        super().__init__(client_id, line, ledger, rng)
        self.began, self.released = asyncio.Event(), asyncio.Event()

    async def _work(self, command: Json) -> None:
        self.began.set()
        await self.released.wait()
        await super()._work(command)


async def test_a_light_device_that_was_cut_comes_back_with_its_token_and_its_answers(server: Server) -> None:
    async with connected(server, HeldDevice) as device:
        assert isinstance(device, HeldDevice)
        await server.say(COMMAND)
        await asyncio.wait_for(device.began.wait(), PATIENCE_S)
        device.line.cut()
        # What is said on a line whose end was not noticed yet is lost.
        await until(lambda: Deed.DISCONNECTED in {e.deed for e in device.ledger.entries}, "it has noticed the cut")
        device.released.set()
        registration = await server.hear("register")
        assert registration["metadata"]["resume_token"] == "token-1"
        assert (await server.hear("command_results"))["prev_response_id"] == "r-1"
        assert effects(device) == ["t#1"]


async def test_a_new_process_of_a_light_device_remembers_nothing(server: Server) -> None:
    async with connected(server, LightDevice) as device:
        await server.say(COMMAND)
        await server.hear("command_results")
        await device.restart(0.0, in_order=True)
        assert "resume_token" not in (await server.hear("register"))["metadata"]
        await server.say(COMMAND)
        await server.hear("command_results")
        assert [execution.life for execution in device.ledger.executions] == [1, 2]


async def test_what_ended_is_not_carried_out_when_it_is_sent_again(server: Server) -> None:
    slow = {"tool_name": "work", "parameters": {"effect": "t#1", "took_ms": 60_000}}
    async with connected(server, LightDevice) as device:
        await server.say({**COMMAND, "actions": [slow]})
        await until(lambda: effects(device), "the command is under way")
        await server.say({"type": "task_end", "status": "failed", "session_id": "s-1"})
        await server.say({**COMMAND, "actions": [slow]})
        assert (await server.hear("command_results"))["action_results"][0]["status"] == "failure"
        assert effects(device) == ["t#1"]


async def test_a_ufo_device_repeats_the_task_without_its_session_and_does_everything_it_is_told(server: Server) -> None:
    async with connected(server, UfoDevice) as device:
        await server.say({"type": "task", "session_id": "s-1", "task_name": "t", "user_request": "do it"})
        echo = await server.hear("task")
        assert (echo["session_id"], echo["task_name"], echo["request"]) == (None, "t", "do it")
        for _ in range(2):
            await server.say(COMMAND)
            await server.hear("command_results")
        assert effects(device) == ["t#1", "t#1"]


async def test_a_ufo_device_waits_longer_each_time_and_gives_up_after_five_attempts() -> None:
    device = UfoDevice("d-1", Proxy(1), Ledger(), random.Random(1))
    delays = []
    for failures in range(1, 6):
        device._failures = failures
        delays.append(device.next_delay_s())
    assert delays[:4] == [2.0, 4.0, 8.0, 16.0]
    assert [entry.deed for entry in device.ledger.entries] == [Deed.GAVE_UP]


async def test_a_silent_line_leaves_the_server_with_a_socket_that_nobody_uses(server: Server) -> None:
    async with connected(server, LightDevice) as device:
        old = server.sockets[-1]
        device.line.silence()
        await server.hear("register")
        assert len(server.sockets) == 2
        assert old.close_code is None


# -- the model ---------------------------------------------------------------------------------------------------------
def a_maker(ledger: Ledger, tmp_path: Any) -> TaskMaker:
    plan = Plan(seconds=10, seed=1, nodes=2, devices=6, redis="single", run_dir=tmp_path)
    return TaskMaker(plan, ledger, random.Random(4))


async def test_the_model_asks_for_one_effect_after_the_other_and_then_ends(tmp_path: Any) -> None:
    import httpx

    ledger = Ledger()
    task = a_maker(ledger, tmp_path).make("light-1", "REST")
    task.planned = True
    ledger.sent(task)
    asked: list[Json] = [{"role": "user", "content": body_of(task)["request"]}]
    called = []
    async with Model(ledger) as model, httpx.AsyncClient(trust_env=False) as http:
        while True:
            answer = await http.post(f"{model.url}/chat/completions", json={"messages": asked})
            message = answer.json()["choices"][0]["message"]
            if not message.get("tool_calls"):
                break
            called.append(orjson.loads(message["tool_calls"][0]["function"]["arguments"])["effect"])
            asked.append({"role": "tool", "content": "done"})
    assert tuple(called) == task.effects
    assert all(effect in message["content"] for effect in task.effects)


def test_a_task_for_a_real_device_is_a_shell_command_with_the_same_effects(tmp_path: Any) -> None:
    maker = a_maker(Ledger(), tmp_path)
    for device in ("real-1", "light-1"):
        task = maker.make(device, "REST")
        assert all(effect in str(commands_of(task)) for effect in task.effects)
