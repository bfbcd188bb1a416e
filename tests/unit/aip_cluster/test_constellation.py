"""The orchestrator's client, against a real server that follows a script."""

import asyncio
from typing import Any

import pytest

from aip_cluster import constellation
from aip_cluster.constellation import (
    ConnectionLost,
    ConstellationClient,
    ConstellationError,
    DeviceNotConnected,
    RegistrationRefused,
    RequestFailed,
    TaskRefused,
    TaskResult,
    TaskTimeout,
)
from aip_cluster.constellation import client as client_module
from aip_cluster.constellation import device_channel as channel_module
from aip_cluster.protocol import Command
from tests.unit.aip_cluster.scripted import Peer, RestServer, ScriptedServer


async def taken(peer: Peer) -> dict[str, Any]:
    """The next task, acknowledged."""
    task = await peer.receive("task")
    await peer.send("heartbeat", session_id=task["session_id"])
    return task


async def end(peer: Peer, task: dict[str, Any], **fields: Any) -> None:
    await peer.send("task_end", session_id=task["session_id"], **{"status": "completed", **fields})


async def test_a_run_registers_for_the_device_sends_the_task_and_returns_its_end(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="night", api_key="k3y") as client:
        running = asyncio.create_task(client.run("lab-1", "tidy up"))
        peer = await server.peer()
        registration = await peer.accept()
        assert peer.header("X-API-Key") == "k3y"
        assert (registration["client_id"], registration["client_type"]) == ("night@lab-1", "constellation")
        assert registration["target_id"] == "lab-1"
        task = await taken(peer)
        assert (task["client_id"], task["client_type"], task["target_id"]) == ("night@lab-1", "constellation", "lab-1")
        assert (task["request"], task["task_name"]) == ("tidy up", "galaxy/night/step1")
        assert task["session_id"].startswith("night@")
        await end(peer, task, result={"freed": 3})
        result = await running
        assert isinstance(result, TaskResult)
        assert (result.session_id, result.status, result.result) == (task["session_id"], "completed", {"freed": 3})
        assert result.succeeded
        assert result.duration_s >= 0
    assert await peer.closed() == 1000


async def test_commands_planner_deadline_and_metadata_travel_in_the_metadata(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="a/b:c") as client:
        running = asyncio.create_task(
            client.run(
                "lab-1",
                "x",
                commands=[
                    {"tool_name": "execute_command", "parameters": {"command": "ls"}, "call_id": "mine"},
                    Command(tool_name="get_system_info", tool_type="data_collection"),
                ],
                planner="direct",
                timeout_s=60,
                task_name="disk-check",
                metadata={"why": "test"},
                session_id="mine-1",
            )
        )
        peer = await server.registered()
        task = await taken(peer)
        assert task["task_name"] == "galaxy/a_b_c/disk-check"
        assert task["session_id"] == "mine-1"
        commands = task["metadata"].pop("commands")
        assert task["metadata"] == {"why": "test", "planner": "direct", "timeout_s": 60}
        assert commands[0] == {
            "tool_name": "execute_command",
            "parameters": {"command": "ls"},
            "tool_type": "action",
            "call_id": "mine",
        }
        assert commands[1]["tool_type"] == "data_collection"
        assert commands[1]["call_id"]
        await end(peer, task, status="failed", error="no disk")
        result = await running
        assert (result.status, result.error, result.succeeded) == ("failed", "no disk", False)


async def test_many_runs_share_one_socket_per_device_and_end_in_any_order(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        first = [asyncio.create_task(client.run("lab-1", f"r{number}")) for number in range(3)]
        one = await server.registered()
        other = asyncio.create_task(client.run("lab-2", "other"))
        two = await server.registered()
        tasks = [await taken(one) for _ in range(3)]
        await end(two, await taken(two), result="two")
        for task in reversed(tasks):
            await end(one, task, result=task["request"])
        assert [(await run).result for run in first] == ["r0", "r1", "r2"]
        assert (await other).result == "two"


async def test_a_device_that_is_not_connected_is_told_apart_from_other_refusals(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        for error, kind in (
            ("Target device 'lab-1' is not connected", DeviceNotConnected),
            ("the key is wrong", RegistrationRefused),
        ):
            running = asyncio.create_task(client.run("lab-1", "x"))
            peer = await server.peer()
            await peer.receive("register")
            await peer.send("error", status="error", error=error)
            await peer.close(1008)
            with pytest.raises(RegistrationRefused, match=error) as caught:
                await running
            assert caught.type is kind


async def test_an_error_with_the_session_fails_that_run_and_no_other(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        refused = asyncio.create_task(client.run("lab-1", "bad"))
        peer = await server.registered()
        task = await peer.receive("task")
        other = asyncio.create_task(client.run("lab-1", "good"))
        good = await taken(peer)
        await peer.send("error", status="error", error="general remark")
        await peer.send("error", status="error", error="no planner", session_id=task["session_id"])
        with pytest.raises(TaskRefused, match="no planner"):
            await refused
        await end(peer, good)
        assert (await other).status == "completed"


@pytest.mark.parametrize("how", [1012, 1013, 4100, 4101, None])
async def test_runs_outlive_their_socket_and_take_what_ended_meanwhile(server: ScriptedServer, how: int | None) -> None:
    server.rest = lambda target: (200, {"state": "running"})
    async with ConstellationClient(server.url, name="n") as client:
        pending = [asyncio.create_task(client.run("lab-1", "x")) for _ in range(2)]
        peer = await server.peer()
        registration = await peer.accept(result={"resume_token": "s3cret"})
        assert registration["metadata"]["supported_features"] == ["resume"]
        tasks = [await taken(peer) for _ in pending]
        await (peer.abort() if how is None else peer.close(how))

        peer = await server.peer()
        assert (await peer.accept())["metadata"]["resume_token"] == "s3cret"
        for task in tasks:
            await end(peer, task, result=task["session_id"])
        assert {(await run).result for run in pending} == {task["session_id"] for task in tasks}


async def test_an_end_that_was_lost_with_its_socket_is_read_over_rest(server: ScriptedServer) -> None:
    stored = {"state": "timed_out", "error": "too slow", "result": None}
    server.rest = lambda target: (200, stored)
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x", session_id="mine"))
        peer = await server.registered()
        await taken(peer)
        await peer.abort()
        await server.registered()
        result = await running
    assert (result.session_id, result.status, result.error) == ("mine", "failed", "too slow")
    assert server.asked == ["/api/sessions/mine"]


async def test_a_task_that_was_lost_with_its_socket_is_sent_again_under_its_id(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x", commands=[{"tool_name": "t"}]))
        peer = await server.registered()
        first = await peer.receive("task")
        await peer.abort()
        peer = await server.registered()
        again = await taken(peer)
        assert {**again, "timestamp": ""} == {**first, "timestamp": ""}
        await end(peer, again)
        assert (await running).succeeded


async def test_a_task_that_was_taken_is_not_sent_again_and_one_that_is_lost_fails(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "LOOK_S", 0.01)
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.registered()
        await taken(peer)
        await peer.close(1012)
        peer = await server.registered()
        with pytest.raises(ConnectionLost, match="has lost the task"):
            await running
        other = asyncio.create_task(client.run("lab-1", "other"))
        assert (await peer.receive("task"))["request"] == "other"
        other.cancel()


async def test_runs_fail_when_nobody_registers_them_for_too_long(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "MEND_S", 0.05)
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.registered()
        await taken(peer)
        server.refusals = [(502, {})] * 100
        await peer.close(1012)
        with pytest.raises(ConnectionLost, match=r"no connection for 'lab-1' within 0.05 s.*502"):
            await running


async def test_a_device_that_moves_as_well_is_waited_for(server: ScriptedServer) -> None:
    server.rest = lambda target: (200, {"state": "running"})
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.registered()
        task = await taken(peer)
        await peer.close(1012)
        peer = await server.peer()
        await peer.receive("register")
        await peer.send("error", status="error", error="Target device 'lab-1' is not connected")
        await peer.close(4002)
        peer = await server.registered()
        await end(peer, task)
        assert (await running).succeeded


async def test_a_name_that_another_client_has_taken_fails_the_runs_and_is_not_taken_back(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.peer()
        await peer.accept(result={"resume_token": "s3cret"})
        await taken(peer)
        await peer.close(4102)
        with pytest.raises(ConnectionLost, match="another client uses this name"):
            await running
        again = asyncio.create_task(client.run("lab-1", "y"))
        peer = await server.peer()
        assert "resume_token" not in (await peer.accept())["metadata"]
        await end(peer, await taken(peer))
        assert (await again).succeeded
    assert "two clients at work need two names" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_server_that_is_busy_and_names_a_time_is_asked_again_then(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refusals = [(503, {"Retry-After": "1"})]
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.registered()
        await end(peer, await taken(peer))
        assert (await running).succeeded
        assert not server.refusals

        server.refusals = [(503, {})]
        with pytest.raises(ConnectionLost, match="503"):
            await client.run("lab-2", "x")


async def test_a_server_that_is_not_there_is_a_lost_connection() -> None:
    async with ConstellationClient("ws://127.0.0.1:9", name="n") as client:
        with pytest.raises(ConnectionLost, match="cannot reach"):
            await client.run("lab-1", "x")
        with pytest.raises(ConnectionLost):
            await client.devices()


async def test_a_socket_that_ends_during_registration_is_a_lost_connection(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.peer()
        await peer.close(1013)
        with pytest.raises(ConnectionLost, match="1013"):
            await running


async def test_closing_the_client_fails_what_is_pending(server: ScriptedServer) -> None:
    client = ConstellationClient(server.url, name="n")
    running = asyncio.create_task(client.run("lab-1", "x"))
    await taken(await server.registered())
    await client.close()
    await client.close()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await running
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await client.run("lab-1", "x")


async def test_cancelling_a_run_forgets_it_and_leaves_the_socket_in_use(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.registered()
        task = await taken(peer)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await end(peer, task)
        again = asyncio.create_task(client.run("lab-1", "y"))
        await end(peer, await taken(peer), result="late")
        assert (await again).result == "late"


async def test_cancelling_while_connecting_leaves_no_socket_open(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.peer()
        await peer.receive("register")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await peer.closed() == 1000


async def test_a_task_that_is_never_acknowledged_or_never_ends_times_out(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ACKNOWLEDGE_S", 0.01)
    monkeypatch.setattr(client_module, "GRACE_S", 0.0)
    async with ConstellationClient(server.url, name="n") as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.registered()
        with pytest.raises(TaskTimeout, match="not acknowledged"):
            await running
        monkeypatch.setattr(client_module, "ACKNOWLEDGE_S", 20.0)
        await peer.receive("task")
        running = asyncio.create_task(client.run("lab-1", "x", timeout_s=0.01))
        await taken(peer)
        with pytest.raises(TimeoutError, match="did not end"):
            await running


async def test_device_information_is_matched_by_its_request(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n") as client:
        asking = asyncio.create_task(client.device_info("lab-1"))
        peer = await server.registered()
        request = await peer.receive("device_info_request")
        assert (request["target_id"], request["client_type"]) == ("lab-1", "constellation")
        await peer.send("device_info_response", response_id="another", result={"wrong": True})
        await peer.send("device_info_response", response_id=request["request_id"], result={"cpu_count": 4})
        assert await asking == {"cpu_count": 4}

        asking = asyncio.create_task(client.device_info("lab-1"))
        request = await peer.receive("device_info_request")
        await peer.send("device_info_response", response_id=request["request_id"], status="error", error="gone")
        with pytest.raises(RequestFailed, match="gone"):
            await asking


async def test_heartbeats_are_sent_and_nonsense_is_passed_over(server: ScriptedServer) -> None:
    async with ConstellationClient(server.url, name="n", heartbeat_s=0.01) as client:
        running = asyncio.create_task(client.run("lab-1", "x"))
        peer = await server.registered()
        task = await taken(peer)
        await peer.send_raw("nonsense")
        await peer.send("command", actions=[])
        assert (await peer.receive("heartbeat"))["client_id"] == "n@lab-1"
        await end(peer, task)
        assert (await running).status == "completed"


async def test_devices_are_listed_over_rest_without_the_constellations() -> None:
    body = {
        "online_clients": ["lab-1", "n@lab-1"],
        "clients": [
            {"client_id": "lab-1", "client_type": "device", "platform": "linux"},
            {"client_id": "n@lab-1", "client_type": "constellation"},
        ],
    }
    async with (
        RestServer(lambda method, target: (200, body)) as rest,
        ConstellationClient(rest.url, name="n", api_key="k3y") as client,
    ):
        assert await client.devices() == [{"client_id": "lab-1", "client_type": "device", "platform": "linux"}]
        assert rest.heads[0].startswith("GET /api/clients?detail=1 ")
        assert "x-api-key: k3y" in rest.heads[0].lower()


async def test_a_session_is_cancelled_over_rest_and_an_error_says_which() -> None:
    def answer(method: str, target: str) -> tuple[int, Any]:
        if target == "/api/sessions/n%40a%2Fb/cancel":
            return 200, {"status": "cancelled"}
        return 404, {"error": "no such session"}

    async with RestServer(answer) as rest, ConstellationClient(rest.url, name="n") as client:
        assert await client.cancel("n@a/b") == {"status": "cancelled"}
        assert rest.heads[0].startswith("POST ")
        with pytest.raises(RequestFailed, match="404 no such session") as caught:
            await client.cancel("x")
        assert caught.value.status_code == 404


async def test_an_answer_that_is_no_object_is_an_error() -> None:
    async with RestServer(lambda method, target: (200, [])) as rest, ConstellationClient(rest.url, name="n") as client:
        with pytest.raises(RequestFailed, match="not a JSON object"):
            await client.devices()


async def test_what_cannot_be_sent_is_refused_before_it_is(server: ScriptedServer) -> None:
    for url, name in (("h", "n"), (server.url, "a{b")):
        with pytest.raises(ValueError, match="must"):
            ConstellationClient(url, name=name)
    async with ConstellationClient(server.url, name="n") as client:
        with pytest.raises(ValueError, match="task_name"):
            await client.run("lab-1", "x", task_name="../up")
        with pytest.raises(ValueError, match="tool_name"):
            await client.run("lab-1", "x", commands=[{}])


def test_everything_public_is_exported_and_every_error_has_one_base() -> None:
    assert sorted(constellation.__all__) == constellation.__all__
    for name in constellation.__all__:
        exported = getattr(constellation, name)
        if isinstance(exported, type) and issubclass(exported, Exception):
            assert issubclass(exported, ConstellationError)
