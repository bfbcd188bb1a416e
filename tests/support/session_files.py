"""Files of a session, over REST and as UFO's clients send them."""

import hashlib
from typing import Any

import httpx

from tests.integration.harness.cluster import Cluster, Json, Node, command
from tests.integration.harness.guests import Guests
from tests.integration.harness.ufo import UfoDevice, now

__all__ = ["download", "files_of", "put", "running", "sha256", "ufo_file"]


def sha256(data: bytes) -> str:
    """As REST writes it."""
    return hashlib.sha256(data).hexdigest()


async def download(http: httpx.AsyncClient, node: Node, path: str) -> tuple[httpx.Headers, str, int]:
    """Headers, checksum and size of what `path` gives; never whole in memory."""
    digest, size = hashlib.sha256(), 0
    async with http.stream("GET", f"{node.process.url}{path}") as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        async for chunk in answer.aiter_bytes():
            digest.update(chunk)
            size += len(chunk)
    return answer.headers, digest.hexdigest(), size


async def put(
    http: httpx.AsyncClient, node: Node, session_id: str, name: str, data: bytes, **headers: str
) -> httpx.Response:
    """PUT a file, whatever the answer. Headers are named with `_` for `-`."""
    url = f"{node.process.url}/api/sessions/{session_id}/files/{name}"
    return await http.put(url, content=data, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def files_of(node: Node, session_id: str) -> list[Json]:
    """The files of a session that exists."""
    listed: list[Json] = (await node.get(f"/api/sessions/{session_id}/files")).json()["files"]
    return listed


async def running(cluster: Cluster, guests: Guests) -> tuple[UfoDevice, Json]:
    """A device with a session that goes on."""
    device = await guests.device(cluster.a)
    task = await cluster.b.dispatch(device.client_id, command("hang"))
    await device.expect("command")
    return device, task


async def ufo_file(device: UfoDevice, name: str, data: bytes, *, chunk: int = 4096, **changes: Any) -> None:
    """A file as UFO's clients send it: no session, no transfer id, MD5; any field of the end may be changed."""
    chunks = [data[i : i + chunk] for i in range(0, len(data), chunk)]
    await device.send(
        {
            "type": "file_transfer_start",
            "filename": name,
            "size": len(data),
            "chunk_size": chunk,
            "total_chunks": len(chunks),
            "mime_type": "text/plain",
        }
    )
    for number, part in enumerate(chunks):
        header = {"type": "binary_data", "size": len(part), "timestamp": now()}
        await device.send({**header, "chunk_num": number, "chunk_size": len(part)})
        await device.send(part)
    end = {"type": "file_transfer_complete", "filename": name, "total_chunks": len(chunks)}
    checksum = hashlib.md5(data, usedforsecurity=False).hexdigest()
    await device.send({**end, "checksum": checksum, "checksum_algorithm": "md5", **changes})
