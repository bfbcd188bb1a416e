"""Files between REST and real devices, both ways: large ones, several at once, and in little memory."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import psutil
import pytest

from tests.integration.conftest import MakeCluster, MakeDevice
from tests.integration.harness.cluster import Cluster, Json, Node, command
from tests.integration.harness.patience import SLACK, eventually
from tests.support.session_files import download, files_of, put, sha256

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
LARGE = 40 * MIB
MOST_MEMORY = 20 * MIB
TRANSFER_S = 60.0


def process_of(node: Node) -> psutil.Process:
    port = str(node.process.port)
    (found,) = [p for p in psutil.Process().children() if p.environ().get("AIP_PORT") == port]
    return found


class Memory:
    """The most memory that a process held, above what it held at the start."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._before = self._peak = process.memory_info().rss

    @property
    def growth(self) -> int:
        return self._peak - self._before

    async def watch(self) -> None:
        while True:
            self._peak = max(self._peak, self._process.memory_info().rss)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def measured(node: Node) -> AsyncIterator[Memory]:
    memory = Memory(process_of(node))
    watching = asyncio.create_task(memory.watch())
    try:
        yield memory
    finally:
        watching.cancel()
        await asyncio.wait([watching])


def waits_for(name: str) -> Json:
    """A command that ends once the file is there, with its checksum."""
    line = f"until [ -f files/{name} ]; do sleep 0.05; done; sha256sum files/{name}"
    return command("execute_command", command=line, timeout=TRANSFER_S * SLACK)


async def test_a_large_file_travels_both_ways_and_no_node_holds_it(
    own_cluster: MakeCluster, make_device: MakeDevice, http: httpx.AsyncClient
) -> None:
    cluster = own_cluster(2)
    device = make_device(cluster.a)
    await eventually(lambda: cluster.b.holder_of(device.device_id), "the device is online", within_s=30)
    data = os.urandom(LARGE)
    (device.workdir / "large.bin").write_bytes(data)
    (device.workdir / "small.bin").write_bytes(data[:MIB])
    # What a node takes once, for its first file, is not what it takes for a large one.
    warm = await cluster.b.dispatch(device.device_id, command("send_file", path="small.bin"))
    assert (await cluster.b.done(warm["task_name"]))["state"] == "completed"

    async with measured(cluster.a) as memory:
        sent = await cluster.b.dispatch(
            device.device_id, command("send_file", path="large.bin", name="Ünï large.bin", timeout=TRANSFER_S * SLACK)
        )
        result = await cluster.b.done(sent["task_name"], wait_s=TRANSFER_S)
        assert result["state"] == "completed", result
        name = "%C3%9Cn%C3%AF%20large.bin"
        headers, digest, size = await download(http, cluster.a, f"/api/sessions/{sent['session_id']}/files/{name}")
    assert (digest, size) == (sha256(data), LARGE)
    assert headers["x-checksum-sha256"] == sha256(data)
    assert headers["content-disposition"].startswith("attachment")
    assert memory.growth < MOST_MEMORY, f"the node grew by {memory.growth / MIB:.1f} MiB"
    (listed,) = await files_of(cluster.b, sent["session_id"])
    assert (listed["name"], listed["size"], listed["to_device"]) == ("Ünï large.bin", LARGE, False)
    assert [s["event"] for s in (await cluster.b.session(sent["session_id"]))["steps"]].count("file") == 1

    async with measured(cluster.a) as memory:
        taking = await cluster.b.dispatch(device.device_id, waits_for("back.bin"), timeout_s=TRANSFER_S * 2)
        stored = await put(
            http, cluster.a, taking["session_id"], "back.bin", data, X_Checksum_SHA256=sha256(data).upper()
        )
        assert stored.status_code == 202, stored.text
        result = await cluster.b.done(taking["task_name"], wait_s=TRANSFER_S)
    assert result["state"] == "completed", result
    assert sha256(data) in str(result["result"])
    assert memory.growth < MOST_MEMORY, f"the node grew by {memory.growth / MIB:.1f} MiB"
    assert (device.workdir / "files" / "back.bin").stat().st_size == LARGE

    async def delivered() -> bool:
        (only,) = await files_of(cluster.b, taking["session_id"])
        return bool(only["delivered"] and only["to_device"] and only["error"] is None)

    await eventually(delivered, "the device's word is stored")


async def test_several_files_for_one_session_all_arrive(
    cluster: Cluster, make_device: MakeDevice, http: httpx.AsyncClient
) -> None:
    device = make_device(cluster.a)
    await eventually(lambda: cluster.b.holder_of(device.device_id), "the device is online", within_s=30)
    taking = await cluster.b.dispatch(device.device_id, *[waits_for(f"f{i}.bin") for i in range(5)], timeout_s=120)
    contents = {f"f{i}.bin": os.urandom(i * 300_000) for i in range(5)}
    answers = await asyncio.gather(
        *[
            put(http, node, taking["session_id"], n, d)
            for (n, d), node in zip(contents.items(), cluster.nodes * 2, strict=False)
        ]
    )
    assert [a.status_code for a in answers] == [202] * 5
    result = await cluster.c.done(taking["task_name"], wait_s=40)
    assert result["state"] == "completed", result
    for (name, data), outcome in zip(contents.items(), result["result"], strict=True):
        assert sha256(data) in str(outcome), name
    steps = [s for s in (await cluster.c.session(taking["session_id"]))["steps"] if s["event"] == "file_stored"]
    assert {s["name"] for s in steps} == set(contents)
