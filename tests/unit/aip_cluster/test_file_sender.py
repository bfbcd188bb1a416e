"""Files from the device to the node, over a real socket, with real files."""

import asyncio
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aip_cluster.device.errors import ToolboxError, ToolFailed
from tests.support.memory import memory_held
from tests.unit.aip_cluster.file_device import CHUNK, MIB, device, sha256
from tests.unit.aip_cluster.scripted import PATIENCE_S, Peer, ScriptedServer


class Arrival:
    """A file as the node takes it, every rule of the protocol asserted on the way."""

    def __init__(self) -> None:
        self.start: dict[str, Any] = {}
        self.end: dict[str, Any] = {}
        self.digest = hashlib.sha256()
        self.size = 0
        self.between: list[str] = []

    async def take(self, peer: Peer, *, chunks: int | None = None) -> "Arrival":
        """All of it, or so many chunks."""
        self.start = await peer.receive("file_transfer_start")
        taken = 0
        while chunks is None or taken < chunks:
            frame = await peer.receive_any()
            assert isinstance(frame, dict), "a binary frame that nothing announced"
            if frame["type"] == "file_transfer_complete":
                self.end = frame
                return self
            if frame["type"] != "binary_data":
                self.between.append(frame["type"])
                continue
            assert (frame["chunk_num"], frame["transfer_id"]) == (taken, self.start["transfer_id"])
            data = await peer.receive_any()
            assert isinstance(data, bytes), "a text frame between a chunk and its announcement"
            assert len(data) == frame["size"] == frame["chunk_size"]
            self.digest.update(data)
            self.size += len(data)
            taken += 1
        return self

    async def confirm(self, peer: Peer) -> None:
        await peer.send("heartbeat", response_id=self.start["transfer_id"], session_id=self.start["session_id"])

    async def refuse(self, peer: Peer, error: str) -> None:
        await peer.send("error", status="error", response_id=self.start["transfer_id"], error=error)


async def result(task: "asyncio.Task[Any]") -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await task


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK])
async def test_a_file_is_sent_in_chunks_and_its_tool_returns_when_it_is_confirmed(
    server: ScriptedServer, workdir: Path, size: int
) -> None:
    data = os.urandom(size)
    (workdir / "report.pdf").write_bytes(data)
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = it.sending("report.pdf")
        arrival = await Arrival().take(peer)
        assert not sending.done()
        await arrival.confirm(peer)
        assert await result(sending) == {"name": "report.pdf", "size": size, "sha256": sha256(data)}
    assert arrival.start | {"transfer_id": ""} == {
        "type": "file_transfer_start",
        "filename": "report.pdf",
        "size": size,
        "chunk_size": CHUNK,
        "total_chunks": -(-size // CHUNK),
        "mime_type": "application/pdf",
        "session_id": "s1",
        "transfer_id": "",
    }
    assert arrival.end["total_chunks"] == arrival.start["total_chunks"]
    assert (arrival.end["checksum"], arrival.end["checksum_algorithm"]) == (sha256(data), "sha256")
    assert arrival.digest.hexdigest() == sha256(data)


async def test_forty_megabytes_are_sent_without_being_held_in_memory_or_holding_up_heartbeats(
    server: ScriptedServer, workdir: Path
) -> None:
    with (workdir / "big").open("wb") as file:
        for _ in range(40):
            file.write(os.urandom(MIB))
    async with device(server.url, workdir, chunk_bytes=256 * 1024, heartbeat_s=0.001) as it:
        peer = await server.registered()
        with memory_held() as held:
            sending = it.sending("big", name="renamed.bin")
            arrival = await Arrival().take(peer)
        # Both ends live in this process.
        assert MIB < held.peak_bytes < 16 * MIB
        await arrival.confirm(peer)
        sent = await result(sending)
    assert (sent["name"], sent["size"], sent["sha256"]) == ("renamed.bin", 40 * MIB, arrival.digest.hexdigest())
    assert "heartbeat" in arrival.between


async def test_files_are_sent_one_after_another(server: ScriptedServer, workdir: Path) -> None:
    for name in ("a", "b"):
        (workdir / name).write_bytes(name.encode() * 3 * CHUNK)
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = [it.sending("a"), it.sending("b", session_id="s2")]
        # Taken apart frame by frame: one of another transfer in between would fail.
        arrivals = [await Arrival().take(peer), await Arrival().take(peer)]
        for arrival in reversed(arrivals):
            await arrival.confirm(peer)
        assert {(await result(task))["name"] for task in sending} == {"a", "b"}
        assert {arrival.start["session_id"] for arrival in arrivals} == {"s1", "s2"}


async def test_a_file_that_the_node_refuses_fails_with_its_reason(server: ScriptedServer, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"x" * CHUNK)
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = it.sending("a")
        await (await Arrival().take(peer)).refuse(peer, "the checksum is not that of what came")
        with pytest.raises(ToolFailed, match="the cluster refused 'a': the checksum is not that of what came"):
            await result(sending)


async def test_a_refusal_half_way_ends_the_transfer_there(server: ScriptedServer, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"x" * 20 * MIB)
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = it.sending("a")
        arrival = await Arrival().take(peer, chunks=1)
        await arrival.refuse(peer, "too large")
        with pytest.raises(ToolFailed, match="too large"):
            await result(sending)
        # The line is free for the next one, and nothing more is said about this one.
        (workdir / "b").write_bytes(b"y")
        again = it.sending("b")
        frame = await peer.receive("file_transfer_start", "file_transfer_complete")
        assert (frame["type"], frame["filename"]) == ("file_transfer_start", "b")
        await peer.receive("file_transfer_complete")
        await peer.send("heartbeat", response_id=frame["transfer_id"])
        assert (await result(again))["size"] == 1


@pytest.mark.parametrize("chunks", [1, None])
async def test_a_file_is_sent_once_more_when_the_connection_is_cut(
    server: ScriptedServer, workdir: Path, chunks: int | None
) -> None:
    data = os.urandom(5 * CHUNK)
    (workdir / "a").write_bytes(data)
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = it.sending("a")
        first = await Arrival().take(peer, chunks=chunks)
        await peer.abort()
        peer = await server.registered()
        second = await Arrival().take(peer)
        assert second.start["transfer_id"] != first.start["transfer_id"]
        assert second.digest.hexdigest() == sha256(data)
        await second.confirm(peer)
        assert (await result(sending))["sha256"] == sha256(data)


async def test_a_file_whose_connection_is_cut_twice_fails_and_says_so(server: ScriptedServer, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"x" * 5 * CHUNK)
    async with device(server.url, workdir) as it:
        sending = it.sending("a")
        for _ in range(2):
            peer = await server.registered()
            await Arrival().take(peer, chunks=1)
            await peer.abort()
        with pytest.raises(ToolFailed, match="the connection to the cluster broke 2 times while 'a' was sent"):
            await result(sending)
        peer = await server.registered()
        await peer.send("device_info_request", response_id="q")
        assert (await peer.receive())["type"] == "device_info_response"


async def test_a_file_given_up_is_taken_back_from_the_node(server: ScriptedServer, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"x" * 20 * MIB)
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = it.sending("a")
        arrival = await Arrival().take(peer, chunks=1)
        sending.cancel()
        end = await peer.receive_end(arrival.start["transfer_id"])
        assert end["error"] == "the file is not wanted any more"
        assert not {"status", "checksum"} & set(end)
        with suppress(asyncio.CancelledError):
            await sending


async def test_a_file_that_nobody_confirms_fails_in_time(server: ScriptedServer, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"x")
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = it.sending("a", timeout=2)
        await Arrival().take(peer)
        with pytest.raises(ToolFailed, match=r"the cluster has not confirmed 'a' within 2 s"):
            await result(sending)


async def test_a_file_that_becomes_shorter_fails(server: ScriptedServer, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"x" * 20 * MIB)
    async with device(server.url, workdir) as it:
        peer = await server.registered()
        sending = it.sending("a")
        await Arrival().take(peer, chunks=1)
        os.truncate(workdir / "a", 0)
        with pytest.raises(ToolFailed, match="the file became shorter while it was being sent"):
            await result(sending)


@pytest.mark.parametrize(
    ("path", "session_id", "error"),
    [
        ("none", "s", "No such file"),
        ("../secret", "s", "outside the working folder"),
        ("pipe", "s", "not a regular file"),
        ("a", None, "belongs to no session"),
    ],
)
async def test_what_cannot_be_sent_is_refused(
    server: ScriptedServer, workdir: Path, path: str, session_id: str | None, error: str
) -> None:
    (workdir.parent / "secret").write_text("x")
    (workdir / "a").write_text("x")
    os.mkfifo(workdir / "pipe")
    async with device(server.url, workdir) as it:
        with pytest.raises(ToolboxError, match=error):
            await result(it.sending(path, session_id=session_id))
