"""`aipctl` on real nodes: what the container's health check, the chart's preStop and `helm test` run."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass

import pytest

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Node
from tests.integration.harness.guests import Guests
from tests.integration.harness.processes import clean_environment, free_port

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


async def aipctl(*arguments: str, api_key: str | None = None) -> Done:
    """Run it as a process of its own."""
    env = {**clean_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    if api_key is not None:
        env["AIP_API_KEY"] = api_key
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aip_cluster.ctl", *arguments),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


def _address(node: Node) -> str:
    return f"--nodes=127.0.0.1:{node.process.port}"


async def test_a_task_for_a_device_of_one_node_goes_through_another(cluster: Cluster) -> None:
    first, second = cluster.nodes[:2]
    done = await aipctl("smoke", "--two", _address(first), _address(second))
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["registered_at"], report["dispatched_at"]) == (first.process.url, second.process.url)
    (session,) = await second.sessions_of(report["device"])
    assert session["state"] == "completed"
    assert report["device"] not in await first.online()


async def test_a_cluster_of_one_is_not_taken_for_two(cluster: Cluster) -> None:
    done = await aipctl("smoke", "--two", _address(cluster.nodes[0]))
    assert (done.code, "only one node is there" in done.err) == (1, True)


async def test_two_nodes_that_do_not_know_each_other_are_no_cluster(own_cluster: MakeCluster) -> None:
    """What the smoke test is for: each of the two is well by itself."""
    apart = [own_cluster(1), own_cluster(1)]
    done = await aipctl("smoke", *(_address(c.nodes[0]) for c in apart))
    assert done.code == 1
    assert "did not take the task: 404" in done.err


async def test_the_key_is_shown_and_never_printed(own_cluster: MakeCluster) -> None:
    node = own_cluster(1, api_key="the-right-key").nodes[0]
    assert (await aipctl("smoke", _address(node), api_key="the-right-key")).code == 0
    refused = await aipctl("smoke", _address(node), api_key="another-key")
    assert refused.code == 1
    assert "another-key" not in refused.out + refused.err
    # Probes have none.
    assert (await aipctl("ready", f"--url={node.process.url}")).code == 0
    drained = await aipctl("drain", f"--url={node.process.url}")
    assert (drained.code, "401" in drained.err) == (1, True)


async def test_a_drain_waits_until_the_node_is_empty(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2)
    node = cluster.nodes[0]
    device = await guests.device(node)
    done = await aipctl("drain", f"--url={node.process.url}", "--wait=20")
    assert (done.code, done.out) == (0, "drained: 1 sockets were moved\n")
    assert (await device.until_closed()).code == 1012
    not_ready = await aipctl("ready", f"--url={node.process.url}")
    assert (not_ready.code, "draining" in not_ready.err) == (1, True)
    assert (await aipctl("live", f"--url={node.process.url}")).code == 0
    again = await aipctl("drain", f"--url={node.process.url}")
    assert again.code == 0


async def test_a_node_that_is_not_there_is_said_to_be_so() -> None:
    port = free_port()
    for command in (["live", f"--url=http://127.0.0.1:{port}"], ["smoke", f"--nodes=127.0.0.1:{port}"]):
        done = await aipctl(*command)
        assert done.code == 1
        assert done.err.startswith("aipctl: ")
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["live", "--url=ftp://h"],
        ["live", "--url=http://key@h"],
        ["smoke"],
        ["smoke", "--nodes=h"],
        ["drain", "--wait=-1"],
    ],
)
async def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    done = await aipctl(*arguments)
    assert done.code == 2
    assert "usage: aipctl" in done.err
