"""Sessions and tasks over REST: pages, waiting, cancelling."""

import asyncio

import httpx
import pytest

from aip_cluster.protocol import Result, ResultStatus
from node.app import Node
from shared_state.sessions import SessionState
from tests.support.asgi import Device, rest
from tests.support.records import a_session, end_session
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

TASK = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "t"}]}
OK = Result(status=ResultStatus.SUCCESS, result=42)


async def _seed(node: Node, count: int) -> list[str]:
    """Sessions of which every third has ended; newest first."""
    for i in range(count):
        await node.state.sessions.create(a_session(f"s{i:03}", created_ms=1_000 + i, deadline_ms=2**45))
        if i % 3 == 0:
            await end_session(node.state, f"s{i:03}", SessionState.COMPLETED)
    return [f"s{i:03}" for i in range(count - 1, -1, -1)]


async def _pages(api: httpx.AsyncClient, **query: str) -> list[list[str]]:
    pages: list[list[str]] = []
    while True:
        answer = (await api.get("/api/sessions", params=query)).json()
        pages.append([s["session_id"] for s in answer["sessions"]])
        assert len(pages) < 100
        if answer["next_cursor"] is None:
            return pages
        query["cursor"] = answer["next_cursor"]


async def test_cursors_lead_through_all_sessions_once(node: Node, api: httpx.AsyncClient) -> None:
    newest_first = await _seed(node, 25)
    pages = await _pages(api, limit="4")
    assert [sid for page in pages for sid in page] == newest_first
    assert all(len(page) <= 4 for page in pages)


async def test_a_page_has_fifty_unless_asked_otherwise(node: Node, api: httpx.AsyncClient) -> None:
    await _seed(node, 60)
    assert [len(page) for page in await _pages(api)] == [50, 10]


async def test_pages_may_be_of_one_state(node: Node, api: httpx.AsyncClient) -> None:
    newest_first = await _seed(node, 25)
    ended = [sid for sid in newest_first if int(sid[1:]) % 3 == 0]
    pages = await _pages(api, limit="2", state="completed")
    assert [sid for page in pages for sid in page] == ended
    assert [sid for page in await _pages(api, state="running") for sid in page] == []


async def test_the_last_page_has_no_cursor(node: Node, api: httpx.AsyncClient) -> None:
    await _seed(node, 4)
    assert [len(page) for page in await _pages(api, limit="2")] == [2, 2]


async def test_sessions_that_lived_out_their_time_are_left_out(node: Node, api: httpx.AsyncClient) -> None:
    newest_first = await _seed(node, 6)
    await node.state.connection.command("DEL", node.state.keys.session(newest_first[2]))
    listed = [sid for page in await _pages(api, limit="2") for sid in page]
    assert listed == [sid for sid in newest_first if sid != newest_first[2]]


async def test_a_dispatched_task_is_found_by_name_and_by_session(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node) as device:
        answer = await api.post("/api/dispatch", json=TASK | {"task_name": "job", "metadata": {"note": None}})
        assert answer.status_code == 200
        given = answer.json()
        assert given == {
            "status": "dispatched",
            "session_id": given["session_id"],
            "task_name": "job",
            "client_id": "device-1",
        }
        assert (await api.get("/api/task_result/job")).json() == {"status": "pending"}
        command, actions = await device.next_commands()
        assert [a.tool_name for a in actions] == ["t"]
        device.answer(command, OK)
        done = (await api.get("/api/task_result/job", params={"wait": "30"})).json()
        assert (done["status"], done["state"], done["session_id"]) == ("done", "completed", given["session_id"])
        assert done["result"][0]["result"] == 42
        detail = (await api.get(f"/api/sessions/{given['session_id']}")).json()
        assert (detail["state"], detail["metadata"], detail["owner"]) == ("completed", {"note": None}, None)
        assert [s["event"] for s in detail["steps"]] == ["created", "dispatched", "commands", "results", "ended"]


async def test_without_a_name_the_session_is_the_name(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        given = (await api.post("/api/dispatch", json=TASK)).json()
        assert given["task_name"] == given["session_id"]


async def test_of_many_dispatches_under_one_name_one_is_accepted(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        answers = await asyncio.gather(
            *(api.post("/api/dispatch", json=TASK | {"task_name": "job"}) for _ in range(10))
        )
        assert sorted(a.status_code for a in answers) == [200] + [409] * 9


async def test_a_wait_ends_with_the_task_on_whatever_node(make_node: MakeNode) -> None:
    """Longer than this test may take: it must be woken."""
    here, there = await make_node(), await make_node()
    async with Device(there) as device, rest(here, timeout=None) as api:
        await api.post("/api/dispatch", json=TASK | {"task_name": "job"})
        waiting = asyncio.create_task(api.get("/api/task_result/job", params={"wait": "60"}))
        command, _ = await device.next_commands()
        device.answer(command, OK)
        async with asyncio.timeout(30):
            assert (await waiting).json()["status"] == "done"


async def test_a_wait_is_cut_to_its_bound(make_node: MakeNode) -> None:
    node = await make_node(max_wait_s=0.05)
    async with Device(node), rest(node) as api:
        await api.post("/api/dispatch", json=TASK | {"task_name": "job"})
        async with asyncio.timeout(30):
            answer = await api.get("/api/task_result/job", params={"wait": "86400"})
        assert answer.json() == {"status": "pending"}


async def test_a_wait_ends_when_the_node_stops(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        await api.post("/api/dispatch", json=TASK | {"task_name": "job"})
        waiting = asyncio.create_task(api.get("/api/task_result/job", params={"wait": "60"}))
        await until(lambda: node.sessions.waiters._by_session, "the request waits")
        node.begin_stop()
        async with asyncio.timeout(30):
            assert (await waiting).json() == {"status": "pending"}


@pytest.mark.parametrize("same_node", [True, False], ids=["same-node", "another-node"])
async def test_cancelling_stops_the_device_and_may_be_repeated(make_node: MakeNode, same_node: bool) -> None:
    there = await make_node()
    here = there if same_node else await make_node()
    async with Device(there) as device, rest(here) as api:
        sid = (await api.post("/api/dispatch", json=TASK)).json()["session_id"]
        await device.next_commands()
        first = await api.post(f"/api/sessions/{sid}/cancel")
        assert first.json() == {"session_id": sid, "state": "cancelled", "cancelled": True}
        told = await device.receive()
        assert (told.type, told.session_id, told.status) == ("task_end", sid, "failed")
        again = await api.post(f"/api/sessions/{sid}/cancel")
        assert again.json() == {"session_id": sid, "state": "cancelled", "cancelled": False}


async def test_a_session_past_its_deadline_is_ended_by_whoever_reads_it(node: Node, api: httpx.AsyncClient) -> None:
    await node.state.sessions.create(a_session("old", created_ms=1_000, deadline_ms=2_000, timeout_s=1.0))
    found = (await api.get("/api/sessions/old")).json()
    assert (found["state"], found["error"]) == ("timed_out", "Task timed out after 1 s")


async def test_a_task_that_takes_too_long_is_ended_and_the_device_told(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node) as device:
        await api.post("/api/dispatch", json=TASK | {"task_name": "job", "timeout_s": 0.1})
        done = (await api.get("/api/task_result/job", params={"wait": "30"})).json()
        assert (done["state"], done["error"]) == ("timed_out", "Task timed out after 0.1 s")
        while (told := await device.receive()).type != "task_end":
            pass
        assert told.error == "Task timed out after 0.1 s"
