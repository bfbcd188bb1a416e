"""Files that are refused, over REST and over sockets, and files in UFO's form."""

import os
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Json
from tests.integration.harness.guests import Guests
from tests.integration.harness.patience import eventually
from tests.support.session_files import download, files_of, put, running, sha256, ufo_file

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


# -- refusals over REST --------------------------------------------------------------------------------------------


async def test_a_file_that_is_not_what_was_announced_is_refused_and_gone(
    cluster: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    _, task = await running(cluster, guests)
    session_id = task["session_id"]
    wrong = await put(http, cluster.b, session_id, "a.bin", b"data", X_Checksum_SHA256="0" * 64)
    assert wrong.status_code == 422, wrong.text
    assert "checksum" in wrong.json()["detail"]
    unreadable = await put(http, cluster.b, session_id, "a.bin", b"data", X_Checksum_SHA256="0" * 63)
    assert unreadable.status_code == 400
    assert await files_of(cluster.c, session_id) == []
    assert (await cluster.c.get(f"/api/sessions/{session_id}/files/a.bin")).status_code == 404


async def test_a_file_that_is_too_large_is_refused_whether_its_size_was_said_or_not(
    own_cluster: MakeCluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    cluster = own_cluster(2, max_file_bytes=MIB)
    device, task = await running(cluster, guests)
    url = f"{cluster.b.process.url}/api/sessions/{task['session_id']}/files/a.bin"
    said = await http.put(url, content=b"x" * (MIB + 1))
    assert said.status_code == 413

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    unsaid = await http.put(url, content=drip())
    assert unsaid.status_code == 413
    assert str(MIB) in unsaid.json()["detail"]
    assert await files_of(cluster.b, task["session_id"]) == []
    assert (await http.put(url, content=b"x" * MIB)).status_code == 202, "the limit itself is allowed"
    await device.send({"type": "file_transfer_start", "filename": "b", "size": MIB + 1, "total_chunks": 1})
    refused = await device.expect("error")
    assert str(MIB) in refused["error"]
    await device.still_served()


async def test_a_device_that_takes_no_files_is_named_as_the_reason(
    cluster: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    device, task = await running(cluster, guests)
    assert (await put(http, cluster.c, task["session_id"], "a.bin", b"x")).status_code == 202

    async def error() -> object:
        (only,) = await files_of(cluster.b, task["session_id"])
        assert not only["delivered"]
        return only["error"]

    assert await eventually(error, "somebody says why it was not delivered") == "the device takes no files"
    await device.still_served()


async def test_there_are_no_files_of_a_session_that_is_none(cluster: Cluster, http: httpx.AsyncClient) -> None:
    for session_id in ("no-such-session", "..", "%2e%2e%2f", "a/b/c"):
        assert (await put(http, cluster.a, session_id, "a.bin", b"x")).status_code == 404, session_id
        assert (await cluster.a.get(f"/api/sessions/{session_id}/files")).status_code == 404
        assert (await cluster.a.get(f"/api/sessions/{session_id}/files/a.bin")).status_code == 404


async def test_nothing_is_taken_for_a_session_that_has_ended_and_what_it_left_is_read(
    cluster: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    device, task = await running(cluster, guests)
    await ufo_file(device, "left.txt", b"left behind")
    await device.expect("heartbeat", response_id="left.txt")
    await cluster.c.cancel(task["session_id"])
    late = await put(http, cluster.b, task["session_id"], "a.bin", b"x")
    assert (late.status_code, late.json()["detail"]) == (409, "The session has ended: no device waits for the file")
    read = await cluster.b.get(f"/api/sessions/{task['session_id']}/files/left.txt")
    assert (read.status_code, read.content) == (200, b"left behind")
    await device.expect("task_end", session_id=task["session_id"])
    await device.send({"type": "file_transfer_start", "filename": "b", "size": 1, "total_chunks": 1})
    assert "no session" in (await device.expect("error"))["error"]


ATTACKS = [
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    ".hidden",
    "a%5cb",
    "C:%5cwindows",
    "a%00b",
    "a%0d%0aX-Evil:%201",
    "a%22b",
    "%7bslot%7d",
    "100%25",
    "a%e2%80%a8b",
    "x" * 201,
    "%2fetc%2fpasswd",
]


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_name_that_is_no_plain_name_is_refused(
    name: str, cluster: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    _, task = await running(cluster, guests)
    answer = await put(http, cluster.b, task["session_id"], name, b"x")
    # A name with a slash in it is another path, where nothing can be put.
    assert answer.status_code in {400, 404, 405}, answer.text
    read = await cluster.b.get(f"/api/sessions/{task['session_id']}/files/{name}")
    assert read.status_code in {400, 404}
    assert await files_of(cluster.b, task["session_id"]) == []


# -- UFO's form ----------------------------------------------------------------------------------------------------


async def test_a_file_in_ufos_form_becomes_one_of_the_devices_only_session(
    cluster: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    device, task = await running(cluster, guests)
    data = os.urandom(50_000)
    await ufo_file(device, "screen.png", data)
    confirmed = await device.expect("heartbeat", response_id="screen.png")
    assert confirmed["session_id"] == task["session_id"]
    headers, digest, size = await download(http, cluster.c, f"/api/sessions/{task['session_id']}/files/screen.png")
    assert (digest, size) == (sha256(data), len(data))
    assert (headers["content-type"].partition(";")[0], headers["x-content-type-options"]) == ("text/plain", "nosniff")


async def test_a_file_of_one_frame_in_ufos_form(cluster: Cluster, guests: Guests) -> None:
    device, task = await running(cluster, guests)
    await device.send({"type": "binary_data", "filename": "note.txt", "size": 5, "mime_type": "text/html"})
    await device.send(b"hello")
    await device.expect("heartbeat", response_id="note.txt")
    read = await cluster.c.get(f"/api/sessions/{task['session_id']}/files/note.txt")
    assert read.content == b"hello"
    assert read.headers["content-disposition"].startswith("attachment"), "no browser runs what a device sent"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"checksum": "0" * 32}, "checksum"),
        ({"checksum": "0" * 64}, "checksum"),
        ({"checksum": "nonsense"}, "checksum"),
    ],
)
async def test_a_device_whose_checksum_does_not_fit_is_told(
    changes: Json, word: str, cluster: Cluster, guests: Guests
) -> None:
    device, task = await running(cluster, guests)
    await ufo_file(device, "a.bin", b"data", **changes)
    assert word in (await device.expect("error"))["error"]
    assert await files_of(cluster.b, task["session_id"]) == []
    await ufo_file(device, "a.bin", b"data")
    await device.expect("heartbeat", response_id="a.bin")


async def test_pieces_that_do_not_fit_end_the_transfer_and_not_the_socket(cluster: Cluster, guests: Guests) -> None:
    device, task = await running(cluster, guests)
    start = {"type": "file_transfer_start", "filename": "a.bin", "size": 8, "total_chunks": 2}
    header = {"type": "binary_data", "size": 4}
    await device.send(start)
    await device.send({**header, "chunk_num": 1})
    assert "in order" in (await device.expect("error"))["error"]
    await device.send(start)
    await device.send({**header, "size": 9, "chunk_num": 0})
    assert "larger" in (await device.expect("error"))["error"]
    await device.send(start)
    await device.send({**header, "chunk_num": 0})
    await device.send(b"12345")
    assert "announced" in (await device.expect("error"))["error"]
    await device.send(start)
    await device.send({"type": "file_transfer_complete", "filename": "a.bin", "total_chunks": 2})
    assert "announced" in (await device.expect("error"))["error"]
    await device.send({"type": "file_transfer_complete", "filename": "a.bin"})
    assert "no transfer" in (await device.expect("error"))["error"]
    for name in ("../a", ".a", "a/b", "a\\b", "", "a\nb", "x" * 201):
        await device.send({**start, "filename": name})
        assert "filename" in (await device.expect("error"))["error"], name
    await device.still_served()
    assert await files_of(cluster.b, task["session_id"]) == []


async def test_no_device_adds_a_file_to_the_session_of_another(cluster: Cluster, guests: Guests) -> None:
    _, task = await running(cluster, guests)
    other, _ = await running(cluster, guests)
    session_id = task["session_id"]
    await other.send(
        {"type": "file_transfer_start", "filename": "a", "size": 1, "total_chunks": 1, "session_id": session_id}
    )
    assert "no session" in (await other.expect("error"))["error"]
    await other.send({"type": "binary_data", "filename": "a", "size": 1, "session_id": session_id})
    assert "no session" in (await other.expect("error"))["error"]
    assert await files_of(cluster.b, session_id) == []
