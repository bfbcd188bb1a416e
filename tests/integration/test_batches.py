"""Many tasks at once: by list and by selector, within their window, and counted to the last one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Json, Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually, stays
from tests.integration.harness.ufo import UfoDevice

pytestmark = pytest.mark.integration

ENDS_S = 40.0
COUNTS = ("waiting", "running", "done", "failed", "missing")


async def start(node: Node, **body: Any) -> Json:
    answer = await node.post("/api/dispatch/batch", body)
    assert answer.status_code == 202, answer.text
    started: Json = answer.json()
    return started


async def batch(node: Node, batch_id: str) -> Json:
    answer = await node.get(f"/api/batches/{batch_id}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    assert sum(found[count] for count in COUNTS) == found["expected"] == len(found["items"])
    assert {c: found[c] for c in COUNTS} == {c: sum(i["status"] == c for i in found["items"]) for c in COUNTS}
    return found


async def over(node: Node, batch_id: str) -> Json:
    """The batch once it is done."""

    async def done() -> Json | None:
        found = await batch(node, batch_id)
        return found if found["status"] == "done" else None

    found = await eventually(done, "the batch is done", within_s=ENDS_S)
    assert found is not None
    return found


def counts(found: Json) -> Json:
    return {c: found[c] for c in COUNTS if found[c]}


def clients(found: Json) -> list[str]:
    return sorted(i["client_id"] for i in found["items"])


def task(client_id: str, *commands: Json, **fields: Any) -> Json:
    return {"client_id": client_id, "request": "do as told", "commands": list(commands), **fields}


async def test_a_list_of_tasks_is_worked_off_and_every_one_is_counted(cluster: Cluster, guests: Guests) -> None:
    good = [await guests.device(node) for node in cluster.nodes]
    bad = await guests.device(cluster.b)
    absent, name = unique("absent"), unique("named")
    tasks = [
        *[task(d.client_id, command("echo", number=i)) for i, d in enumerate(good)],
        task(good[0].client_id, command("echo"), task_name=name),
        task(bad.client_id, command("fail", error="no room")),
        task(absent, command("echo")),
        {"client_id": good[0].client_id, "request": "in words, and nobody can plan"},
    ]
    started = await start(cluster.a, tasks=tasks)
    assert started["expected"] == 7
    found = await over(cluster.c, started["batch_id"])
    assert counts(found) == {"done": 4, "failed": 1, "missing": 2}
    assert [i["client_id"] for i in found["items"]] == [t["client_id"] for t in tasks], "in the order of the request"
    *_, failed, missing, unplanned = found["items"]
    assert (failed["state"], "no room" in failed["error"]) == ("failed", True)
    assert (missing["session_id"], missing["error"]) == (None, "Client not online")
    assert "No planner can run this task" in unplanned["error"]
    for item in found["items"][:4]:
        assert (await cluster.b.session(item["session_id"]))["state"] == "completed"
    assert (await cluster.b.done(name))["session_id"] == found["items"][3]["session_id"]


async def test_a_name_that_is_taken_twice_is_missing_once(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    name = unique("twice")
    tasks = [task(device.client_id, command("hang"), task_name=name, timeout_s=5)] * 2
    started = await start(cluster.b, tasks=tasks, window=1000)

    async def sorted_out() -> bool:
        found = await batch(cluster.c, started["batch_id"])
        return bool(found["missing"] == 1)

    await eventually(sorted_out, "one of them is refused", within_s=20)
    found = await over(cluster.c, started["batch_id"])
    assert counts(found) == {"failed": 1, "missing": 1}
    (timed_out,) = [i for i in found["items"] if i["status"] == "failed"]
    assert timed_out["state"] == "timed_out"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "devices.yaml"
    content = {
        "devices": {
            "kiosk-*": {"tags": ["kiosk"]},
            "kiosk-eu-*": {"tags": ["eu"], "custom_metadata": {"owner": "retail"}},
            "build-?": {"tags": ["build", "eu"]},
        }
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


async def test_a_selector_picks_by_id_by_platform_and_by_tag(
    own_cluster: MakeCluster, guests: Guests, notes: Path
) -> None:
    cluster = own_cluster(2, devices_config=notes)
    platforms = {
        "kiosk-eu-1": "windows",
        "kiosk-eu-2": "linux",
        "kiosk-us-1": "windows",
        "build-1": "linux",
        "build-10": "linux",
    }
    for number, (client_id, platform) in enumerate(platforms.items()):
        await guests.device(cluster.nodes[number % 2], client_id, platform=platform)
    await guests.constellation(cluster.a, name="kiosk-eu-9")
    kiosks = ["kiosk-eu-1", "kiosk-eu-2", "kiosk-us-1"]
    cases: list[tuple[Json, list[str]]] = [
        ({"client_ids": ["kiosk-*"]}, kiosks),
        ({"client_ids": ["*"]}, sorted(platforms)),
        ({}, sorted(platforms)),
        ({"client_ids": ["kiosk-??-[12]", "build-1"]}, ["build-1", *kiosks]),
        ({"client_ids": ["build-1", "build-1", "build-*"]}, ["build-1", "build-10"]),
        ({"platform": "windows"}, ["kiosk-eu-1", "kiosk-us-1"]),
        ({"platform": "Linux", "client_ids": ["kiosk-*"]}, ["kiosk-eu-2"]),
        ({"tags": ["kiosk"]}, kiosks),
        ({"tags": ["eu"]}, ["build-1", "kiosk-eu-1", "kiosk-eu-2"]),
        ({"tags": ["eu", "kiosk"], "platform": "windows"}, ["kiosk-eu-1"]),
    ]
    for selector, expected in cases:
        started = await start(cluster.b, selector=selector, request="do it", commands=[command("echo")])
        found = await over(cluster.a, started["batch_id"])
        assert clients(found) == expected, selector
        assert counts(found) == {"done": len(expected)}, selector


async def test_a_device_that_is_named_is_expected_whether_it_is_there_or_not(cluster: Cluster, guests: Guests) -> None:
    here, absent = await guests.device(cluster.a), unique("absent")
    selector = {"client_ids": [here.client_id, absent, f"{absent}-*"]}
    started = await start(cluster.b, selector=selector, request="do it", commands=[command("echo")])
    found = await over(cluster.c, started["batch_id"])
    assert clients(found) == sorted([here.client_id, absent])
    assert counts(found) == {"done": 1, "missing": 1}


async def test_a_device_that_is_named_and_is_no_device_or_of_another_platform_is_not_lost_without_a_word(
    cluster: Cluster, guests: Guests
) -> None:
    linux, windows = await guests.device(cluster.a), await guests.device(cluster.b, platform="windows")
    selector = {"client_ids": [linux.client_id, windows.client_id], "platform": "linux"}
    started = await start(cluster.b, selector=selector, request="do it", commands=[command("echo")])
    found = await over(cluster.c, started["batch_id"])
    assert clients(found) == [linux.client_id], "a platform that does not fit is a selection, not a loss"


async def test_a_device_that_is_named_twice_gets_one_task(cluster: Cluster, guests: Guests) -> None:
    here, absent = await guests.device(cluster.a), unique("absent")
    selector = {"client_ids": [here.client_id, absent] * 2}
    started = await start(cluster.b, selector=selector, request="do it", commands=[command("echo")])
    assert clients(await over(cluster.c, started["batch_id"])) == sorted([here.client_id, absent])


async def test_an_empty_list_of_devices_is_nobody_and_not_everybody(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    body = {"selector": {"client_ids": []}, "request": "wipe the disk", "commands": [command("echo")]}
    answer = await cluster.a.post("/api/dispatch/batch", body)
    assert answer.status_code in {400, 404}, answer.text
    assert await cluster.a.sessions_of(device.client_id) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "tasks"),
        ({"tasks": [], "request": "x"}, 400, "tasks"),
        ({"tasks": [task("a")], "selector": {}}, 400, "either"),
        ({"tasks": [task("a")], "request": "x"}, 400, "request"),
        ({"tasks": [task("a"), task("b", task_name="../x")]}, 400, "tasks.1.task_name"),
        ({"tasks": [task("a", planner="magic")]}, 400, "tasks.0.planner"),
        ({"tasks": [{"client_id": "a"}]}, 400, "tasks.0.request"),
        ({"tasks": [task("a")] * 1001}, 400, "tasks"),
        ({"tasks": [task("a")], "window": 0}, 400, "window"),
        ({"selector": {"platforms": "linux"}, "request": "x"}, 400, "platforms"),
        ({"selector": {"client_ids": ["no-such-*"]}, "request": "x"}, 404, "fits the selector"),
        ({"selector": {"tags": ["no-such-tag"]}, "request": "x"}, 404, "fits the selector"),
    ],
    ids=str,
)
async def test_a_batch_that_cannot_be_meant_is_refused_whole(
    body: Json, status: int, words: str, cluster: Cluster
) -> None:
    answer = await cluster.a.post("/api/dispatch/batch", body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


async def test_a_selector_without_a_task_is_refused(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    answer = await cluster.a.post("/api/dispatch/batch", {"selector": {"client_ids": [device.client_id]}})
    assert answer.status_code == 400, answer.text
    assert "request" in answer.json()["detail"]
    assert await cluster.a.sessions_of(device.client_id) == []


async def test_there_is_no_batch_that_nobody_started(cluster: Cluster) -> None:
    for batch_id in ("no-such-batch", "..", "%00", "a%2fb", "x" * 5000):
        assert (await cluster.a.get(f"/api/batches/{batch_id}")).status_code == 404, batch_id


class SlowDevice(UfoDevice):
    """Keeps every command until it is told to answer."""

    async def answer(self, message: Json) -> None:
        """Not yet."""


async def test_no_more_tasks_are_under_way_than_the_window_is_wide(cluster: Cluster, guests: Guests) -> None:
    devices = [
        await guests.register(
            SlowDevice(cluster.nodes[i % 3].ws_url, unique("slow"), features=("commands_without_echo",))
        )
        for i in range(6)
    ]
    started = await start(cluster.a, tasks=[task(d.client_id, command("echo")) for d in devices], window=2)

    def held() -> list[SlowDevice]:
        return [d for d in devices if d.count("command") and not d.executed]

    for number in range(0, len(devices), 2):
        await eventually(lambda: len(held()) == 2, "two tasks are under way", within_s=20)
        await stays(lambda: sum(d.count("task") for d in devices) == number + 2, "no third begins", for_s=0.3)  # noqa: B023

        async def noted() -> bool:
            found = await batch(cluster.b, started["batch_id"])
            assert (found["status"], found["window"]) == ("running", 2)
            return [found[c] for c in ("done", "running", "waiting")] == [number, 2, 4 - number]  # noqa: B023

        await eventually(noted, "it is counted so")
        for device in held():
            await UfoDevice.answer(device, await device.expect("command"))
    assert counts(await over(cluster.c, started["batch_id"])) == {"done": 6}


async def test_a_device_that_goes_does_not_hold_the_batch_up(cluster: Cluster, guests: Guests) -> None:
    gone, stays_on = await guests.device(cluster.a, answers=False), await guests.device(cluster.b)
    tasks = [task(gone.client_id, command("echo")), task(stays_on.client_id, command("echo"))]
    started = await start(cluster.c, tasks=tasks, window=1)
    await gone.expect("command")
    await gone.abort()
    found = await over(cluster.b, started["batch_id"])
    assert counts(found) == {"done": 1, "failed": 1}
    assert found["items"][0]["state"] == "cancelled"


async def test_what_a_killed_node_had_not_sent_is_missing_and_nothing_hangs(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.b, answers=False)
    names = [unique("item") for _ in range(4)]
    tasks = [task(device.client_id, command("echo"), task_name=name) for name in names]
    started = await start(cluster.a, tasks=tasks, window=1)
    sent = await device.expect("command")
    # Noted, not only sent: what is between the two when a node dies is another test's matter.
    await eventually(lambda: _noted(cluster.b, started["batch_id"]), "the first item has its session", within_s=20)
    cluster.a.process.kill()

    async def unsent_are_missing() -> bool:
        return counts(await batch(cluster.b, started["batch_id"])) == {"running": 1, "missing": 3}

    await eventually(unsent_are_missing, "what was not sent is missing", within_s=20)
    await UfoDevice.answer(device, sent)
    found = await over(cluster.b, started["batch_id"])
    assert counts(found) == {"done": 1, "missing": 3}
    assert {i["error"] for i in found["items"][1:]} == {"The node that worked the batch off is gone"}
    assert device.count("task") == 1
    again = await start(cluster.b, tasks=tasks[1:])
    for _ in range(3):
        await UfoDevice.answer(device, await device.expect("command", within_s=20))
    assert counts(await over(cluster.b, again["batch_id"])) == {"done": 3}, "and their names are free"


async def _noted(node: Node, batch_id: str) -> bool:
    found = await batch(node, batch_id)
    return bool(found["items"][0]["session_id"])


async def test_a_killed_node_with_the_device_on_it_leaves_nothing_that_waits(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a, answers=False)
    tasks = [task(device.client_id, command("echo"), timeout_s=8) for _ in range(3)]
    started = await start(cluster.a, tasks=tasks, window=1)
    await device.expect("command")
    await eventually(lambda: _noted(cluster.b, started["batch_id"]), "the first item has its session", within_s=20)
    cluster.a.process.kill()
    found = await over(cluster.b, started["batch_id"])
    assert counts(found) == {"failed": 1, "missing": 2}


async def test_a_node_that_is_stopped_in_order_leaves_nothing_that_waits(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.b, answers=False)
    tasks = [task(device.client_id, command("echo"), timeout_s=5) for _ in range(3)]
    started = await start(cluster.a, tasks=tasks, window=1)
    await device.expect("command")
    await eventually(lambda: _noted(cluster.b, started["batch_id"]), "the first item has its session", within_s=20)
    assert cluster.a.process.stop() == 0
    found = await over(cluster.b, started["batch_id"])
    assert found["expected"] == 3
    assert found["done"] == 0
    assert found["failed"] + found["missing"] == 3
