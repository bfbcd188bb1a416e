"""A device that sends and takes files, over a real socket."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aip_cluster.device.files.receiver import FileReceiver
from aip_cluster.device.files.sender import FileSender
from aip_cluster.device.link import Link
from aip_cluster.device.origin import Origin
from aip_cluster.device.outbox import Outbox
from aip_cluster.device.servers.spec import LOCAL_NAMESPACE
from aip_cluster.device.toolbox import Toolbox
from aip_cluster.device.workspace import Workspace
from aip_cluster.protocol import Command
from aip_cluster.protocol.backoff import Backoff
from tests.unit.aip_cluster.linked import Handler, Profiles, running
from tests.unit.aip_cluster.toolboxes import inside, local_server

CHUNK = 1000
MIB = 1024 * 1024


class FileDevice:
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
) -> AsyncIterator[FileDevice]:
    """Connected to `url`, its files in `workdir`, for as long as the context lasts."""
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
    local = inside(LOCAL_NAMESPACE, local_server(workdir, sender=sender))
    async with running(link), Toolbox([local]) as tools:
        yield FileDevice(link, tools, receiver)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
