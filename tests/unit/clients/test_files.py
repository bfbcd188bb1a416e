"""Files in both directions, over a real socket, with real files."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aip import Command, new_id
from clients.backoff import Backoff
from clients.device.errors import ToolboxError, ToolFailed
from clients.device.files.receiver import FileReceiver, safe_name
from clients.device.files.sender import FileSender
from clients.device.link import Link
from clients.device.origin import Origin
from clients.device.outbox import Outbox
from clients.device.servers.spec import LOCAL_NAMESPACE
from clients.device.toolbox import Toolbox
from clients.device.workspace import Workspace
from tests.support.memory import memory_held
from tests.unit.clients.scripted import PATIENCE_S, Peer, ScriptedServer
from tests.unit.clients.test_link import Handler, Profiles
from tests.unit.clients.toolboxes import inside, local_server

CHUNK = 1000
MIB = 1024 * 1024


class Device:
    """A link with files, and the tools that send them."""

    def __init__(self, link: Link, tools: Toolbox, receiver: FileReceiver) -> None:
        self.link = link
        self.tools = tools
        self.receiver = receiver

    def sending(self, path: str, *, session_id: str | None = "s1", **parameters: Any) -> "asyncio.Task[Any]":
        """`send_file`, under way."""
        command = Command(tool_name="send_file", parameters={"path": path, **parameters})

        async def call() -> Any:
            return (await self.tools.call(command, Origin(session_id))).value

        return asyncio.create_task(call())


@asynccontextmanager
async def device(
    url: str, workdir: Path, *, chunk_bytes: int = CHUNK, max_file_bytes: int = 64 * MIB, heartbeat_s: float = 20.0
) -> AsyncIterator[Device]:
    sender = FileSender(chunk_bytes=chunk_bytes)
    receiver = FileReceiver(Workspace(workdir), max_file_bytes=max_file_bytes)
    link = Link(
        url,
        "lab-1",
        handler=Handler(),
        outbox=Outbox(),
        profiles=Profiles(),
        sender=sender,
        receiver=receiver,
        heartbeat_s=heartbeat_s,
        backoff=Backoff(base_s=0.001, cap_s=0.001),
    )
    running = asyncio.create_task(link.run())
    try:
        async with Toolbox([inside(LOCAL_NAMESPACE, local_server(workdir, sender=sender))]) as tools:
            yield Device(link, tools, receiver)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


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


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- from the device -----------------------------------------------------------------------------------------------


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


# -- to the device -------------------------------------------------------------------------------------------------


async def offer(
    peer: Peer,
    data: bytes,
    name: str = "in.bin",
    *,
    change: Callable[[dict[str, Any]], None] = lambda frame: None,
    chunk: int = CHUNK,
    last: int | None = None,
    answered: bool = True,
    **end: Any,
) -> dict[str, Any]:
    """Send a file as a node does, each text frame changed by `change`; the device's answer."""
    transfer_id = new_id()
    places = range(0, len(data), chunk)

    async def say(kind: str, **fields: Any) -> None:
        frame = {"type": kind, "transfer_id": transfer_id, **fields}
        change(frame)
        await peer.send(frame.pop("type"), **frame)

    await say(
        "file_transfer_start",
        filename=name,
        size=len(data),
        chunk_size=chunk,
        total_chunks=len(places),
        mime_type="application/octet-stream",
        session_id="s1",
    )
    for number, at in enumerate(places[:last]):
        piece = data[at : at + chunk]
        await say("binary_data", chunk_num=number, chunk_size=len(piece), size=len(piece), timestamp="now")
        await peer.send_binary(piece)
    if last is None:
        checksum = {"checksum": sha256(data), "checksum_algorithm": "sha256"} | end
        await say("file_transfer_complete", filename=name, total_chunks=len(places), session_id="s1", **checksum)
    return await peer.receive("file_transfer_complete") if answered else {}


def stored(workdir: Path) -> dict[str, bytes]:
    folder = workdir / "files"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.mark.parametrize("size", [0, 1, 5 * CHUNK, 5 * CHUNK + 1])
async def test_a_file_is_stored_once_it_is_whole(server: ScriptedServer, workdir: Path, size: int) -> None:
    data = os.urandom(size)
    async with device(server.url, workdir):
        peer = await server.registered()
        answer = await offer(peer, data)
    assert answer | {"transfer_id": ""} == {
        "type": "file_transfer_complete",
        "status": "ok",
        "filename": "in.bin",
        "session_id": "s1",
        "transfer_id": "",
        "checksum": sha256(data),
    }
    assert stored(workdir) == {"in.bin": data}


@pytest.mark.parametrize("named", [True, False])
async def test_md5_does_for_a_checksum_too(server: ScriptedServer, workdir: Path, named: bool) -> None:
    checksum = hashlib.md5(b"abc", usedforsecurity=False).hexdigest().upper()
    async with device(server.url, workdir):
        peer = await server.registered()
        answer = await offer(peer, b"abc", checksum=checksum, checksum_algorithm="md5" if named else None)
        assert answer["status"] == "ok"
        answer = await offer(peer, b"abd", checksum=checksum, checksum_algorithm="md5" if named else None)
        assert answer["error"] == "the md5 checksum is not that of what came"
    assert stored(workdir) == {"in.bin": b"abc"}


async def test_forty_megabytes_are_stored_without_being_held_in_memory(server: ScriptedServer, workdir: Path) -> None:
    data = os.urandom(40 * MIB)
    async with device(server.url, workdir):
        peer = await server.registered()
        with memory_held() as held:
            answer = await offer(peer, data, chunk=256 * 1024)
        # Both ends live in this process.
        assert MIB < held.peak_bytes < 16 * MIB
    assert (answer["status"], answer["checksum"]) == ("ok", sha256(data))


def at(kind: str, number: int | None = None, **fields: Any) -> Callable[[dict[str, Any]], None]:
    """Change the fields of one frame."""

    def change(frame: dict[str, Any]) -> None:
        if frame["type"] == kind and number in {None, frame.get("chunk_num")}:
            frame.update(fields)

    return change


@pytest.mark.parametrize(
    ("change", "end", "error"),
    [
        (at(""), {"checksum": "0" * 64}, "the sha256 checksum is not that of what came"),
        (at(""), {"checksum": None}, "the checksum is missing"),
        (at(""), {"checksum_algorithm": "crc32"}, "the checksum must be md5 or sha256"),
        (at("file_transfer_start", size=7 * CHUNK), {}, f"{5 * CHUNK} bytes came, not {7 * CHUNK} as announced"),
        (at("file_transfer_start", size=CHUNK), {}, f"more bytes than the {CHUNK} that were announced"),
        (at("file_transfer_complete", total_chunks=9), {}, "5 chunks came, not 9 as announced"),
        (at("binary_data", 3, chunk_num=4), {}, "chunk 4 came where chunk 3 was due"),
        (at("binary_data", 2, transfer_id="other"), {}, "a chunk of another transfer came between its chunks"),
        (at("binary_data", 1, size=5), {}, f"chunk 1 has {CHUNK} bytes, not 5 as announced"),
        (at("binary_data", 1, size="x"), {}, "size must be a whole number, 0 or more"),
        (at("file_transfer_start", size=10**12), {}, "this device takes 67108864 at most"),
        (at("file_transfer_start", size=-1), {}, "size must be a whole number, 0 or more"),
        (at("file_transfer_start", filename=None), {}, "filename is missing"),
        (at(""), {"error": "never mind"}, "given up by the sender: never mind"),
    ],
)
async def test_what_is_wrong_with_a_transfer_is_answered_once_and_leaves_nothing(
    server: ScriptedServer, workdir: Path, change: Callable[[dict[str, Any]], None], end: dict[str, Any], error: str
) -> None:
    async with device(server.url, workdir):
        peer = await server.registered()
        answer = await offer(peer, os.urandom(5 * CHUNK), change=change, **end)
        assert answer["status"] == "error"
        assert error in answer["error"]
        # The next one is not hurt by what was left of it, and nothing more was said about it.
        again = await offer(peer, b"fine", "next.bin")
        assert (again["status"], again["filename"]) == ("ok", "next.bin")
    assert stored(workdir) == {"next.bin": b"fine"}


async def test_a_transfer_that_another_cuts_short_fails_and_the_other_does_not(
    server: ScriptedServer, workdir: Path
) -> None:
    async with device(server.url, workdir):
        peer = await server.registered()
        await offer(peer, os.urandom(5 * CHUNK), "a", last=2, answered=False)
        answer = await offer(peer, b"b", "b")
        assert (answer["filename"], answer["error"]) == ("a", "another transfer began before this one was complete")
        assert (await peer.receive("file_transfer_complete"))["filename"] == "b"
    assert stored(workdir) == {"b": b"b"}


async def test_a_cut_connection_leaves_nothing_of_an_unfinished_file(server: ScriptedServer, workdir: Path) -> None:
    async with device(server.url, workdir):
        peer = await server.registered()
        await offer(peer, os.urandom(5 * CHUNK), last=2, answered=False)
        await peer.abort()
        peer = await server.registered()
        assert (await offer(peer, b"x", "next"))["status"] == "ok"
    assert stored(workdir) == {"next": b"x"}


async def test_what_an_agent_that_was_killed_left_unfinished_is_removed(workdir: Path) -> None:
    folder = workdir / "files"
    folder.mkdir()
    (folder / ".in.bin.0123.part").write_text("half")
    (folder / "kept.part").write_text("whole")
    FileReceiver(Workspace(workdir), max_file_bytes=1).clean()
    assert stored(workdir) == {"kept.part": b"whole"}


async def test_a_full_disk_is_a_clean_failure(
    server: ScriptedServer, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with device(server.url, workdir):
        peer = await server.registered()
        with monkeypatch.context() as patch:
            patch.setattr("clients.device.files.receiver.os.write", full)
            answer = await offer(peer, b"x" * CHUNK)
        assert answer["error"] == "there is no room for it on the device's disk"
        assert (await offer(peer, b"x"))["status"] == "ok"
    assert stored(workdir) == {"in.bin": b"x"}


async def test_binary_frames_that_nothing_announced_are_passed_over(server: ScriptedServer, workdir: Path) -> None:
    async with device(server.url, workdir):
        peer = await server.registered()
        await peer.send_binary(b"\x00\x01")
        await peer.send("binary_data", chunk_num=0, size=2, transfer_id="t")
        await peer.send_binary(b"{}")
        await peer.send("file_transfer_complete", checksum="x", transfer_id="t")
        assert (await offer(peer, b"x"))["status"] == "ok"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        (".ssh", "ssh"),
        ("...hidden.txt", "hidden.txt"),
        ("a\nb\x00c\u202ed", "abcd"),
        ("x" * 300 + ".pdf", "x" * 196 + ".pdf"),
        ("\u00e9" * 150 + ".pdf", "\u00e9" * 98 + ".pdf"),
        ("report final.pdf", "report final.pdf"),
    ],
)
async def test_a_name_cannot_lead_out_of_the_folder(
    server: ScriptedServer, workdir: Path, name: str, kept: str
) -> None:
    async with device(server.url, workdir):
        peer = await server.registered()
        answer = await offer(peer, b"x", name)
    assert (answer["status"], answer["filename"]) == ("ok", name)
    assert answer.get("stored_as", name) == kept
    assert stored(workdir) == {kept: b"x"}
    assert not (workdir / kept).exists()


@pytest.mark.parametrize("name", ["", "..", "/", "a/", ". ."])
def test_a_name_of_which_nothing_is_left_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name that can be used"):
        safe_name(name)


async def test_a_file_replaces_one_of_its_name_but_no_folder_and_follows_no_link(
    server: ScriptedServer, workdir: Path
) -> None:
    outside = workdir.parent / "outside"
    outside.write_text("precious")
    folder = workdir / "files"
    (folder / "dir").mkdir(parents=True)
    (folder / "old").write_text("old")
    (folder / "link").symlink_to(outside)
    async with device(server.url, workdir):
        peer = await server.registered()
        assert (await offer(peer, b"new", "old"))["status"] == "ok"
        assert (await offer(peer, b"new", "link"))["status"] == "ok"
        assert (await offer(peer, b"new", "dir"))["error"] == "'dir' is a folder on this device"
    assert outside.read_text() == "precious"
    assert (folder / "old").read_text() == (folder / "link").read_text() == "new"


async def test_a_folder_that_leads_outside_is_not_written_to(server: ScriptedServer, workdir: Path) -> None:
    elsewhere = workdir.parent / "elsewhere"
    elsewhere.mkdir()
    (workdir / "files").symlink_to(elsewhere)
    async with device(server.url, workdir):
        peer = await server.registered()
        answer = await offer(peer, b"x")
    assert "outside the working folder" in answer["error"]
    assert list(elsewhere.iterdir()) == []
