"""Tasks in words, planned by a model: real nodes, Redis and devices, and an endpoint that answers from a script."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from mcp.server import MCPServer

from devtools.model_server import ModelServer, Reply, call, say
from devtools.topologies import free_port
from tests.integration.conftest import MakeCluster, MakeDevice
from tests.integration.harness.cluster import Cluster, Json, Node, metric
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import SLACK, eventually
from tests.integration.harness.peers import Frame
from tests.integration.harness.ufo import Result, UfoDevice
from tests.support.device_process import DeviceProcess
from tests.support.event_stream import SentEvent, follow
from tests.unit.aip_cluster.http_servers import serving

pytestmark = pytest.mark.integration

STDIO_SERVER = Path(__file__).resolve().parents[1] / "unit" / "aip_cluster" / "stdio_server.py"
KEY = "k3y-between-operator-and-device"
LLM_KEY = "sk-of-the-endpoint-1234"
ENDS_S = 40.0


@pytest.fixture
async def llm() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


def planned(own_cluster: MakeCluster, llm: ModelServer, count: int, **settings: object) -> Cluster:
    given = {"llm_base_url": llm.url, "llm_model": "scripted-1", "llm_api_key": LLM_KEY, **settings}
    return own_cluster(count, **given)


def mirror() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("mirror")

    @server.tool()
    def reverse(text: str) -> str:
        """Write a text backwards."""
        return text[::-1]

    return server


async def online(node: Node, device_id: str) -> None:
    await eventually(lambda: node.holder_of(device_id), f"{device_id} is online", within_s=30)


async def tools_of(node: Node, device_id: str) -> set[str]:
    profile = (await node.get(f"/api/clients/{device_id}")).json()["profile"]
    return {t["tool_name"] for t in profile.get("tools", []) if isinstance(t, dict)}


def without_ids(events: list[SentEvent]) -> list[Json]:
    return [event.data for event in events]


async def read_until(events: AsyncIterator[SentEvent], name: str, number: int) -> list[SentEvent]:
    """Events up to the `number`th called `name`."""
    read: list[SentEvent] = []
    async with asyncio.timeout(ENDS_S * SLACK):
        async for event in events:
            read.append(event)
            if sum(e.name == name for e in read) == number:
                return read
    pytest.fail(f"the stream ended before {name} number {number}: {read}")


@asynccontextmanager
async def three_servers(make_device: MakeDevice, held_by: Node, seen_from: Node) -> AsyncIterator[DeviceProcess]:
    """A device with its own tools, a server over stdio and one over HTTP; all of them serve."""
    port = free_port()
    async with serving(mirror().streamable_http_app(), port):
        device = make_device(
            held_by,
            {"namespace": "script", "type": "stdio", "command": sys.executable, "args": [str(STDIO_SERVER)]},
            {"namespace": "mirror", "type": "http", "url": f"http://127.0.0.1:{port}/mcp"},
        )
        await online(seen_from, device.device_id)

        async def all_tools() -> bool:
            return {"execute_command", "shout", "reverse"} <= await tools_of(seen_from, device.device_id)

        await eventually(all_tools, "all three servers serve", within_s=30)
        yield device


def four_steps(third_after: asyncio.Event) -> list[Reply]:
    """Tools of each server at once, one that fails, two that mend it, one more, and the answer."""
    first = (
        call("execute_command", command="echo one"),
        call("shout", text="two"),
        call("reverse", text="eerht"),
    )
    third = (call("write_file", path="notes.txt", content="four"), call("read_file", path="notes.txt"))
    return [
        Reply(text="I look around.", calls=first),
        Reply(calls=(call("read_file", path="notes.txt"),)),
        Reply(calls=third).after(third_after.wait),
        Reply(calls=(call("shout", text="done"),)),
        say("The notes say four."),
    ]


def assert_four_steps(steps: list[Json]) -> None:
    """What `four_steps` asked for was sent, and answered, step by step."""
    commands = [s for s in steps if s["event"] == "commands"]
    results = [s for s in steps if s["event"] == "results"]
    assert [[a["tool_name"] for a in s["actions"]] for s in commands] == [
        ["execute_command", "shout", "reverse"],
        ["read_file"],
        ["write_file", "read_file"],
        ["shout"],
    ]
    assert [[r["status"] for r in s["results"]] for s in results] == [
        ["success"] * 3,
        ["failure"],
        ["success"] * 2,
        ["success"],
    ]
    assert [s["response_id"] for s in commands] == [s["response_id"] for s in results]
    assert "three" in orjson.dumps(results[0]).decode()
    assert "TWO" in orjson.dumps(results[0]).decode()


async def test_four_steps_over_three_servers_with_a_failure_on_the_way(
    own_cluster: MakeCluster, llm: ModelServer, make_device: MakeDevice, http: httpx.AsyncClient
) -> None:
    cluster = planned(own_cluster, llm, 3)
    seen_half = asyncio.Event()
    llm.will(*four_steps(third_after=seen_half))
    async with three_servers(make_device, cluster.a, cluster.b) as device:
        task = await cluster.b.dispatch(device.device_id, request="What do the notes say?", timeout_s=120)
        path = f"/api/sessions/{task['session_id']}/events"
        async with aclosing(follow(http, f"{cluster.b.process.url}{path}")) as events:
            first = await read_until(events, "results", 2)
        seen_half.set()
        result = await cluster.b.done(task["task_name"], wait_s=ENDS_S)
        async with asyncio.timeout(ENDS_S * SLACK):
            rest = [e async for e in follow(http, f"{cluster.c.process.url}{path}", after=first[-1].event_id)]
    assert (result["state"], result["result"], result["error"]) == ("completed", "The notes say four.", None)
    assert llm.left == 0
    assert (device.workdir / "notes.txt").read_text() == "four"

    session = await cluster.c.session(task["session_id"])
    assert session["planner"] == "llm"
    assert session["node_id"] == await cluster.a.node_id()
    assert (session["state"], session["result"]) == (result["state"], result["result"])
    assert_four_steps(session["steps"])
    assert without_ids(first + rest) == session["steps"], "cut and resumed, every event came once"
    ids = [e.event_id for e in first + rest]
    assert len(set(ids)) == len(ids)

    last = llm.questions[-1]
    assert last.headers["authorization"] == f"Bearer {LLM_KEY}"
    assert last.messages[1] == {"role": "user", "content": "What do the notes say?"}
    assert "The call failed." in last.outputs()[3]
    assert (session["prompt_tokens"], session["completion_tokens"]) == (500, 50)
    assert await metric(cluster.a, 'aip_llm_tokens_total{kind="prompt"}') == 500
    assert await metric(cluster.a, 'aip_llm_tokens_total{kind="completion"}') == 50
    assert await metric(cluster.a, "aip_llm_calls_total") == 5
    assert await metric(cluster.b, "aip_llm_calls_total") == 0


class KeyedDevice(UfoDevice):
    """UFO's Linux device: lists its tools under `action` only, and executes nothing without the key."""

    lists_tools = True

    def _tools(self) -> list[Json]:
        names = {"execute_command": ["command", "api_key"], "get_system_info": ["api_key"]}
        return [
            {
                "tool_key": f"action::{name}",
                "tool_name": name,
                "title": None,
                "namespace": "BashExecutor",
                "tool_type": "action",
                "description": f"does {name}",
                "input_schema": {
                    "type": "object",
                    "properties": {p: {"type": "string"} for p in parameters},
                    "required": parameters,
                },
                "output_schema": None,
                "meta": None,
                "annotations": None,
            }
            for name, parameters in names.items()
        ]

    async def answer(self, message: Frame) -> None:
        """Nothing at all for a type that the agent has no servers for."""
        (first, *_) = message["actions"]
        if first["tool_name"] != "list_tools":
            await super().answer(message)
        elif message["agent_name"] == "LinuxAgent" and first["tool_type"] == "action":
            listed = Result(status="success", result=self._tools(), call_id=first["call_id"])
            await self.answer_with(message, [listed])

    def _execute(self, action: Frame) -> Result:
        result = super()._execute(action)
        if action["parameters"].get("api_key") != KEY:
            return Result(status="failure", error="Invalid API key", call_id=action["call_id"])
        # A device that shows what it was told, as one that logs its command lines does.
        shown = {"stdout": f"ran with --key {KEY}", "nested": [{"env": {"API_KEY": KEY}}]}
        return result.model_copy(update={"result": shown, "error": None})


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_key_of_the_devices_tools_reaches_the_device_and_nobody_else(
    stream: bool, own_cluster: MakeCluster, llm: ModelServer, guests: Guests, http: httpx.AsyncClient
) -> None:
    secrets = {name: {"api_key": KEY} for name in ("execute_command", "get_system_info")}
    cluster = planned(
        own_cluster, llm, 2, tool_secrets=orjson.dumps(secrets).decode(), log_level="DEBUG", llm_stream=stream
    )
    llm.will(
        Reply(calls=(call("get_system_info"), call("execute_command", command="df -h"))),
        Reply(calls=(call("execute_command", command="du -sh"),)),
        say("The disk is half full."),
    )
    device = await guests.register(KeyedDevice(cluster.a.ws_url, unique("keyed")))
    task = await cluster.b.dispatch(device.client_id, request="How full is the disk?")
    result = await cluster.b.done(task["task_name"], wait_s=ENDS_S)
    assert (result["state"], result["result"]) == ("completed", "The disk is half full."), result

    assert [a["parameters"].get("api_key") for a in device.executed] == [KEY] * 3
    assert [a["parameters"].get("command") for a in device.executed] == [None, "df -h", "du -sh"]
    session = await cluster.b.session(task["session_id"])
    path = f"/api/sessions/{task['session_id']}/events"
    events = [e async for e in follow(http, f"{cluster.b.process.url}{path}")]
    assert without_ids(events) == session["steps"]
    assert "[redacted]" in str(session["steps"])
    for offered in llm.questions[0].body["tools"]:
        assert "api_key" not in offered["function"]["parameters"]["properties"]
    assert KEY not in str([q.body for q in llm.questions])
    assert KEY not in str(session)
    assert KEY not in str(without_ids(events))
    assert KEY not in str(result)
    for node in cluster.nodes:
        assert KEY not in node.process.log()
        assert LLM_KEY not in node.process.log()
    told = await device.expect("task_end", session_id=task["session_id"])
    assert (told["status"], told["result"]) == ("completed", "The disk is half full.")


async def test_what_a_dispatch_gives_for_a_secret_is_in_no_step(
    own_cluster: MakeCluster, llm: ModelServer, guests: Guests
) -> None:
    cluster = planned(own_cluster, llm, 1, tool_secrets=orjson.dumps({"echo": {"api_key": KEY}}).decode())
    device = await guests.device(cluster.a)
    given: Json = {"tool_name": "echo", "parameters": {"api_key": "given-with-the-dispatch", "text": "hello"}}
    task = await cluster.a.dispatch(device.client_id, given)
    await cluster.a.done(task["task_name"])
    assert device.executed[0]["parameters"] == {"api_key": "given-with-the-dispatch", "text": "hello"}
    (step,) = [s for s in (await cluster.a.session(task["session_id"]))["steps"] if s["event"] == "commands"]
    assert step["actions"][0]["parameters"] == {"text": "hello"}


async def test_an_orchestrator_that_asks_for_progress_is_told_of_every_step(
    own_cluster: MakeCluster, llm: ModelServer, guests: Guests
) -> None:
    secrets = orjson.dumps({"execute_command": {"api_key": KEY}, "get_system_info": {"api_key": KEY}}).decode()
    cluster = planned(own_cluster, llm, 2, tool_secrets=secrets)
    script = (Reply(text="I look.", calls=(call("execute_command", command="df"),)), say("Half full."))
    llm.will(*script, *script)
    device = await guests.register(KeyedDevice(cluster.a.ws_url, unique("keyed")))
    galaxy = await guests.constellation(cluster.b, device.client_id)

    session_id = await galaxy.task(metadata={"progress": True, "planner": "llm"})
    end = await galaxy.expect("task_end", session_id=session_id, within_s=ENDS_S)
    assert (end["status"], end["result"]) == ("completed", "Half full.")
    lines = [orjson.loads(f["messages"][0]) for f in galaxy.heard if f.get("messages")]
    assert [line["event"] for line in lines] == ["dispatched", "plan", "commands", "results", "plan"]
    assert all(f["session_id"] == session_id for f in galaxy.heard if f.get("messages"))
    assert KEY not in str(galaxy.heard)

    before = len(galaxy.heard)
    quiet = await galaxy.task(number=4)
    await galaxy.expect("task_end", session_id=quiet, within_s=ENDS_S)
    assert not any(f.get("messages") for f in galaxy.heard[before:]), "who does not ask is not told"


async def test_an_endpoint_that_fails_ends_the_task_and_not_the_node(
    own_cluster: MakeCluster, llm: ModelServer, guests: Guests
) -> None:
    cluster = planned(own_cluster, llm, 1)
    device = await guests.register(KeyedDevice(cluster.a.ws_url, unique("keyed")))
    task = await cluster.a.dispatch(device.client_id, request="anything")
    result = await cluster.a.done(task["task_name"], wait_s=ENDS_S)
    assert (result["state"], result["error"]) == ("failed", "The model's endpoint refused with status 400")
    llm.will(say("Well again."))
    task = await cluster.a.dispatch(device.client_id, request="anything")
    assert (await cluster.a.done(task["task_name"], wait_s=ENDS_S))["result"] == "Well again."


async def test_a_session_that_waits_for_the_model_can_be_cancelled(
    own_cluster: MakeCluster, llm: ModelServer, guests: Guests
) -> None:
    cluster = planned(own_cluster, llm, 2)
    never = asyncio.Event()
    llm.will(say("too late").after(never.wait))
    device = await guests.register(KeyedDevice(cluster.a.ws_url, unique("keyed")))
    task = await cluster.b.dispatch(device.client_id, request="anything")
    await eventually(lambda: llm.questions, "the model is asked", within_s=20)
    assert (await cluster.b.cancel(task["session_id"]))["cancelled"] is True
    result = await cluster.b.done(task["task_name"])
    assert result["state"] == "cancelled"
    told = await device.expect("task_end", session_id=task["session_id"])
    assert told["status"] == "failed"
