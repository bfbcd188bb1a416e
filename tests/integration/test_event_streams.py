"""Server-sent events of a session: from anywhere, from any node, and only where there is something to read."""

import asyncio

import httpx
import pytest

from tests.integration.harness.cluster import Cluster, Json, command
from tests.integration.harness.guests import Guests
from tests.integration.harness.patience import SLACK
from tests.support.event_stream import SentEvent, follow

pytestmark = pytest.mark.integration

ENDS_S = 20.0


async def ended(cluster: Cluster, guests: Guests) -> Json:
    device = await guests.device(cluster.a)
    task = await cluster.b.dispatch(device.client_id, command("echo", text="line\n\ndata: forged\nid: 9-9"))
    await cluster.b.done(task["task_name"])
    return task


async def read(http: httpx.AsyncClient, url: str, after: str = "") -> list[SentEvent]:
    async with asyncio.timeout(ENDS_S * SLACK):
        return [event async for event in follow(http, url, after=after)]


async def test_an_ended_session_is_told_from_any_place_and_the_stream_ends(
    cluster: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    task = await ended(cluster, guests)
    steps = (await cluster.c.session(task["session_id"]))["steps"]
    for node in cluster.nodes:
        url = f"{node.process.url}/api/sessions/{task['session_id']}/events"
        events = await read(http, url)
        assert [e.data for e in events] == steps
        assert [e.name for e in events] == [s["event"] for s in steps]
        for number, event in enumerate(events):
            assert [e.data for e in await read(http, url, event.event_id)] == steps[number + 1 :]
            asked = await read(http, f"{url}?after={event.event_id}")
            assert [e.data for e in asked] == steps[number + 1 :]


async def test_everybody_who_follows_a_session_is_told_of_its_end(
    cluster: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    device = await guests.device(cluster.a)
    task = await cluster.b.dispatch(device.client_id, command("hang"))
    await device.expect("command")
    urls = [f"{n.process.url}/api/sessions/{task['session_id']}/events" for n in cluster.nodes * 3]
    following = [asyncio.create_task(read(http, url)) for url in urls]
    await cluster.c.cancel(task["session_id"])
    steps = (await cluster.c.session(task["session_id"]))["steps"]
    for events in await asyncio.gather(*following):
        assert [e.data for e in events] == steps


@pytest.mark.parametrize("after", ["nonsense", "1", "1-", "-1", "1-1-1", "$", "+", "9" * 21 + "-0", "1-1%0a"])
async def test_a_place_that_is_none_is_refused(after: str, cluster: Cluster, guests: Guests) -> None:
    task = await ended(cluster, guests)
    answer = await cluster.a.get(f"/api/sessions/{task['session_id']}/events", after=after)
    assert (answer.status_code, "Last-Event-ID" in answer.text) == (400, True)


async def test_the_largest_place_there_can_be_breaks_nothing(cluster: Cluster, guests: Guests) -> None:
    task = await ended(cluster, guests)
    for after in ("0-0", f"{2**64 - 1}-{2**64 - 1}", f"{'9' * 20}-{'9' * 20}"):
        answer = await cluster.a.get(f"/api/sessions/{task['session_id']}/events", after=after)
        assert answer.status_code in {200, 400}, answer.text


async def test_a_session_that_is_none_has_no_events(cluster: Cluster) -> None:
    assert (await cluster.a.get("/api/sessions/no-such-session/events")).status_code == 404
