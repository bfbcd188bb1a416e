"""A plan on real devices of a real cluster, and a device that dies while it runs."""

import asyncio
import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest

from aip_cluster.constellation import ConstellationClient, parse_plan, run_plan
from tests.integration.conftest import MakeCluster
from tests.integration.harness.patience import eventually
from tests.integration.harness.processes import Process, clean_environment

pytestmark = pytest.mark.integration

WIDTH = 10


def device(name: str, directory: Path, ws_url: str) -> Process:
    """A real device agent, not started yet."""
    argv = [
        *(sys.executable, "-m", "aip_cluster.device", "start", "--server", ws_url),
        *("--id", name, "--workdir", str(directory / name)),
    ]
    return Process(name, argv, directory / f"{name}.log", clean_environment())


def diamond(gate: Path) -> dict[str, object]:
    """One task, ten that depend on it and end once there is a file `gate`, one that depends on those: twelve."""

    def echo(text: str, *, first: str = "") -> list[dict[str, object]]:
        return [{"tool_name": "execute_command", "parameters": {"command": f"{first}echo {text}", "timeout": 60}}]

    wait = f"while [ ! -e {shlex.quote(str(gate))} ]; do sleep 0.05; done; "

    needs = {"platform": "linux"}
    middle = [
        {
            "id": f"m{i}",
            "request": "middle",
            "needs": needs,
            "depends_on": ["first"],
            "retries": 3,
            "commands": echo(f"m{i}-{{{{ tasks.first.result[0].result.stdout | trim }}}}", first=wait),
        }
        for i in range(WIDTH)
    ]
    return {
        "name": "diamond",
        "tasks": [
            {"id": "first", "request": "first", "needs": needs, "retries": 3, "commands": echo("one")},
            *middle,
            {
                "id": "last",
                "request": "last",
                "needs": needs,
                "retries": 3,
                "depends_on": [f"m{i}" for i in range(WIDTH)],
                "commands": echo("{{ tasks.m9.result[0].result.stdout | trim }}"),
            },
        ],
    }


async def test_a_diamond_of_twelve_ends_although_a_device_is_killed_halfway(
    own_cluster: MakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = own_cluster(3)
    gate = tmp_path / "gate"
    devices = [
        device(f"worker-{i}", tmp_path, node.ws_url)
        for i, node in enumerate([cluster.a, cluster.b, cluster.c, cluster.a])
    ]
    try:
        for one in devices:
            one.launch()

        async def all_there() -> bool:
            return len((await cluster.a.get("/api/clients")).json()["online_clients"]) == len(devices)

        await eventually(all_there, "the devices are registered", within_s=30)

        async with ConstellationClient(cluster.b.ws_url, name="galaxy") as client:
            run = asyncio.create_task(run_plan(client, parse_plan(diamond(gate))))

            async def busy() -> bool:
                sessions = (await cluster.c.get("/api/sessions?state=running&client_id=worker-0")).json()["sessions"]
                return bool(sessions)

            await eventually(busy, "the first device is at work", within_s=30)
            devices[0].kill()
            gate.touch()
            report = await asyncio.wait_for(run, 60)

        assert report.status == "completed"
        assert report.results["last"][0]["result"]["stdout"] == "m9-one\n"
        sessions = (await cluster.c.get("/api/sessions?limit=500")).json()["sessions"]
        completed = Counter(s["request"] for s in sessions if s["state"] == "completed")
        assert completed == {"first": 1, "middle": WIDTH, "last": 1}
        names = [s["task_name"] for s in sessions if s["state"] == "completed"]
        assert len(names) == len(set(names)) == WIDTH + 2
        with capsys.disabled():
            print(f"\n{report.to_mermaid()}\n{report.critical_path}")
    finally:
        gate.touch()
        for one in devices:
            one.dispose()
