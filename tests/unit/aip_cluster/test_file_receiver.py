"""Files from the node to the device, over a real socket, with real files."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aip_cluster.device.files.receiver import FileReceiver, safe_name
from aip_cluster.device.workspace import Workspace
from aip_cluster.protocol import new_id
from tests.support.memory import memory_held
from tests.unit.aip_cluster.file_device import CHUNK, MIB, device, sha256
from tests.unit.aip_cluster.scripted import Peer, ScriptedServer


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
            patch.setattr("aip_cluster.device.files.receiver.os.write", full)
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
