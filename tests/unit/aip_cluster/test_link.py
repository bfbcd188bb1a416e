"""The device's connection, against a real server that follows a script."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aip_cluster.device.files.receiver import FileReceiver
from aip_cluster.device.files.sender import FileSender
from aip_cluster.device.link import Link
from aip_cluster.device.outbox import Outbox
from aip_cluster.device.workspace import Workspace
from aip_cluster.protocol.backoff import Backoff
from tests.unit.aip_cluster.linked import Handler, Profiles, running
from tests.unit.aip_cluster.scripted import PATIENCE_S, ScriptedServer


class RecordingBackoff(Backoff):
    """No waiting, and a record of the ceilings that a wait would have had."""

    def __init__(self) -> None:
        super().__init__(rng=lambda: 1.0)
        self.ceilings: list[float] = []
        self._failures = asyncio.Semaphore(0)

    def next_s(self) -> float:
        self.ceilings.append(super().next_s())
        self._failures.release()
        return 0.0

    async def failures(self, count: int) -> None:
        """Wait until so many connections have ended."""
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(count):
                await self._failures.acquire()


class Device:
    def __init__(
        self, link: Link, handler: Handler, outbox: Outbox, backoff: RecordingBackoff, profiles: Profiles
    ) -> None:
        self.link = link
        self.profiles = profiles
        self.handler = handler
        self.outbox = outbox
        self.backoff = backoff


@asynccontextmanager
async def device(url: str, *, heartbeat_s: float = 20.0, api_key: str | None = None) -> AsyncIterator[Device]:
    """A link that runs for as long as the context lasts."""
    handler, outbox, backoff, profiles = Handler(), Outbox(), RecordingBackoff(), Profiles()
    link = Link(
        url,
        "lab-1",
        handler=handler,
        outbox=outbox,
        profiles=profiles,
        sender=FileSender(),
        receiver=FileReceiver(Workspace(Path("/nonexistent")), max_file_bytes=0),
        api_key=api_key,
        heartbeat_s=heartbeat_s,
        backoff=backoff,
    )
    async with running(link):
        yield Device(link, handler, outbox, backoff, profiles)


async def test_the_first_frame_registers_with_the_profile_and_the_key_in_a_header(server: ScriptedServer) -> None:
    async with device(server.url, api_key="k3y"):
        peer = await server.peer()
        frame = await peer.accept()
        assert (frame["type"], frame["status"]) == ("register", "ok")
        assert (frame["client_id"], frame["client_type"]) == ("lab-1", "device")
        assert frame["metadata"] == {"version": 1}
        assert frame["timestamp"]
        assert peer.header("X-API-Key") == "k3y"
        assert "k3y" not in peer.path
        assert "permessage-deflate" not in (peer.header("Sec-WebSocket-Extensions") or "")


async def test_the_key_is_in_no_log(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with device(server.url, api_key="k3y-of-mine"):
        await (await server.registered()).close(1011)
        await server.registered()
    # The server of this test logs headers as it pleases.
    logged = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert logged
    assert "k3y-of-mine" not in "".join(logged)


async def test_stopping_closes_with_1000(server: ScriptedServer) -> None:
    async with device(server.url):
        peer = await server.registered()
    assert await peer.closed() == 1000


async def test_stopping_works_while_nobody_answers() -> None:
    async with device("ws://127.0.0.1:9/ws") as it:
        await it.backoff.failures(3)
    assert it.backoff.ceilings[:3] == [0.5, 1.0, 2.0]


async def test_a_refused_registration_is_logged_and_tried_again(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with device(server.url) as it:
        for _ in range(2):
            peer = await server.peer()
            await peer.receive("register")
            await peer.send("error", status="error", error="who are\nyou?")
            await peer.close(1008)
        await server.registered()
    assert it.backoff.ceilings == [0.5, 1.0]
    assert "refused the registration: 'who are\\nyou?'" in caplog.text


async def test_a_success_resets_the_backoff(server: ScriptedServer) -> None:
    async with device(server.url) as it:
        for _ in range(3):
            await (await server.registered()).close(1011)
        await server.registered()
    assert it.backoff.ceilings == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("code", [1012, 1013, 4100, 4101])
async def test_a_registered_device_that_is_sent_away_comes_back_within_a_second(
    server: ScriptedServer, code: int
) -> None:
    async with device(server.url) as it:
        await (await server.registered()).close(code)
        await server.registered()
    assert it.backoff.ceilings == [1.0]


@pytest.mark.parametrize(("code", "ceiling"), [(1012, 0.5), (1013, 2.0), (4009, 2.0)])
async def test_a_server_that_cannot_register_now_is_soon_asked_again(
    server: ScriptedServer, code: int, ceiling: float
) -> None:
    async with device(server.url) as it:
        for close_code in (1011, 1011, 1011, code):
            peer = await server.peer()
            await peer.receive("register")
            await peer.close(close_code)
        await server.registered()
    assert it.backoff.ceilings == [0.5, 1.0, 2.0, ceiling]


async def test_a_refusal_that_names_a_time_is_heeded_and_counts_as_no_failure(server: ScriptedServer) -> None:
    server.refusals = [(503, {}), (503, {"Retry-After": "7"}), (429, {"Retry-After": "86400"}), (503, {})]
    async with device(server.url) as it:
        await server.registered()
    assert it.backoff.ceilings == [0.5, 14.0, 240.0, 1.0]


async def test_an_id_that_another_process_has_taken_is_left_to_it_for_a_while(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with device(server.url) as it:
        peer = await server.peer()
        await peer.accept(result={"resume_token": "s3cret"})
        await peer.close(4102)
        again = await (await server.peer()).accept()
    assert it.backoff.ceilings == [60.0]
    # With it the id would be taken back, and the two would go on for ever.
    assert "resume_token" not in again["metadata"]
    assert "another process has registered as 'lab-1'" in caplog.text


async def test_the_token_of_a_registration_is_shown_at_the_next_and_logged_nowhere(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with device(server.url):
        first = await server.peer()
        assert "resume_token" not in (await first.accept(result={"resume_token": "s3cret-1"}))["metadata"]
        await first.close(1012)
        second = await server.peer()
        assert (await second.accept(result={"resume_token": "s3cret-2"}))["metadata"]["resume_token"] == "s3cret-1"
        await second.abort()
        third = await server.peer()
        assert (await third.accept())["metadata"]["resume_token"] == "s3cret-2"
    # The server of this test logs frames as it pleases.
    logged = "".join(record.getMessage() for record in caplog.records if record.name != "websockets.server")
    assert "registered as" in logged
    assert "s3cret" not in logged


def test_the_backoff_grows_to_its_cap_with_full_jitter() -> None:
    draws: Iterator[float] = iter([0.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0])
    backoff = Backoff(rng=lambda: next(draws))
    assert [backoff.next_s() for _ in range(7)] == [0.0, 1.0, 1.0, 4.0, 8.0, 15.0, 15.0]
    backoff.reset()
    assert backoff.next_s() == 0.5


async def test_commands_and_ends_reach_the_handler_and_the_task_is_not_echoed(server: ScriptedServer) -> None:
    async with device(server.url) as it:
        peer = await server.registered()
        await peer.send("task", task_name="t", session_id="s", user_request="hello", response_id="r0")
        await peer.send("command", session_id="s", response_id="r1", actions=[{"tool_name": "x"}])
        await peer.send("task_end", session_id="s", status="completed")
        message = await it.handler.submitted.get()
        assert (message.response_id, message.session_id) == ("r1", "s")
        assert await it.handler.ended.get() == "s"
        it.outbox.put("r1", b'{"type":"command_results"}')
        assert (await peer.receive())["type"] == "command_results"


async def test_frames_that_make_no_sense_are_passed_over(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aip_cluster.device.link")
    async with device(server.url) as it:
        peer = await server.registered()
        await peer.send_raw("not json")
        await peer.send_raw("[]")
        await peer.send("novelty")
        await peer.send("command", actions=[{}])
        await peer.send("error", error="something", status="error")
        await peer.send("command", response_id="r1", actions=[])
        assert (await it.handler.submitted.get()).response_id == "r1"
    levels = {record.levelno for record in caplog.records if "'novelty'" in record.getMessage()}
    assert levels == {logging.DEBUG}
    assert caplog.text.count("ignored a malformed frame") == 3
    assert "actions[0].tool_name" in caplog.text
    assert "the server reports: 'something'" in caplog.text


async def test_heartbeats_are_sent_and_say_who_sends_them(server: ScriptedServer) -> None:
    async with device(server.url, heartbeat_s=0.01):
        peer = await server.registered()
        frame = await peer.receive("heartbeat")
        assert (frame["client_id"], frame["client_type"], frame["status"]) == ("lab-1", "device", "ok")


async def test_a_request_for_the_profile_is_answered_with_a_fresh_one(server: ScriptedServer) -> None:
    async with device(server.url):
        peer = await server.registered()
        await peer.send("device_info_request", response_id="q1")
        frame = await peer.receive("device_info_response")
        assert frame["request_id"] == "q1"
        assert frame["metadata"] == {"fresh": True}


async def test_a_profile_is_pushed_when_it_has_changed_since_the_cluster_was_told(server: ScriptedServer) -> None:
    async with device(server.url) as it:
        peer = await server.registered()
        it.profiles.change()
        frame = await peer.receive("device_info_response")
        assert frame["metadata"] == {"version": 2}
        assert "request_id" not in frame
        await peer.close(1012)
        again = await server.peer()
        assert (await again.accept())["metadata"] == {"version": 2}
        # Told with the registration, it is not pushed again: the next frame is the answer to this.
        await again.send("device_info_request", response_id="q1")
        assert (await again.receive("device_info_response"))["metadata"] == {"fresh": True}


async def test_answers_given_while_disconnected_are_sent_once_after_the_next_registration(
    server: ScriptedServer,
) -> None:
    async with device(server.url) as it:
        first = await server.registered()
        await first.close(1012)
        second = await server.peer()
        await second.receive("register")
        for number in (1, 2, 1):
            it.outbox.put(f"r{number}", json.dumps({"type": "command_results", "n": number}).encode())
        await second.send("heartbeat")
        assert [(await second.receive())["n"] for _ in range(2)] == [1, 2]
        await second.close(1012)
        third = await server.registered()
        it.outbox.put("r3", b'{"type":"command_results","n":3}')
        assert (await third.receive())["n"] == 3


async def test_what_a_server_sends_before_it_acknowledges_is_not_lost(server: ScriptedServer) -> None:
    async with device(server.url) as it:
        peer = await server.peer()
        await peer.receive("register")
        await peer.send("command", response_id="early", actions=[])
        await peer.send("heartbeat")
        assert (await it.handler.submitted.get()).response_id == "early"


async def test_a_redirect_does_not_carry_the_key_to_another_server(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nlocation: {server.url}\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        async with device(f"ws://127.0.0.1:{port}/ws", api_key="k") as it:
            await it.backoff.failures(1)
    assert "HTTP 302" in caplog.text


async def test_the_outbox_drops_the_oldest_when_it_is_full(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(max_answers=2, max_bytes=10)
    for name in ("a", "b", "c"):
        outbox.put(name, b"1")
    assert await outbox.first() == ("b", b"1")
    outbox.put("d", b"x" * 20)
    assert await outbox.first() == ("d", b"x" * 20)
    assert caplog.text.count("too many answers") == 3


async def test_an_answer_replaced_while_it_is_sent_is_not_discarded_with_the_old_one() -> None:
    outbox = Outbox()
    outbox.put("a", b"old")
    key, frame = await outbox.first()
    outbox.put("a", b"new")
    outbox.discard(key, frame)
    assert await outbox.first() == ("a", b"new")
