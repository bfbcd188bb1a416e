"""What the device says about itself: its shape, what a check that fails or hangs does to it, and when it is told."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aip_cluster.device.changes import meaningful_changes
from aip_cluster.device.checks import hardware
from aip_cluster.device.checks.bounded import BoundedChecks
from aip_cluster.device.checks.hardware import gpu
from aip_cluster.device.checks.software import features, installed_apps
from aip_cluster.device.config import Settings
from aip_cluster.device.profile import MAX_TOOLS_BYTES, Profiler
from tests.unit.aip_cluster.scripted import PATIENCE_S


class Shelf:
    """The tools of a device, as the test says."""

    def __init__(self) -> None:
        self.tools = [{"tool_key": "action::a", "tool_name": "a", "description": "does a"}]
        self.connected = True

    def names(self) -> list[str]:
        return [tool["tool_name"] for tool in self.tools]

    def servers(self) -> list[dict[str, Any]]:
        return [{"namespace": "local", "connected": self.connected, "tools": self.names()}]

    def list_tools(self) -> list[dict[str, Any]]:
        return list(self.tools)


class Machine:
    """The findings of the checks, as the test says."""

    def __init__(self) -> None:
        self.findings: dict[str, Any] = {
            "cpu": {"model": "C", "cores": 4, "threads": 8, "used_percent": 1.0},
            "memory": {"total_gb": 32.0, "available_gb": 20.0},
            "disk": {"total_gb": 100.0, "free_gb": 50.0},
            "gpu": {"available": False},
            "network": {"hostname": "h", "ip_address": "10.0.0.1"},
            "os": {"platform": "linux", "name": "L 1", "version": "1", "build": "1.0"},
            "installed_apps": ["x"],
        }

    def checks(self) -> dict[str, Callable[[], Any]]:
        return {name: partial(self._find, name) for name in self.findings}

    def _find(self, name: str) -> Any:
        finding = self.findings[name]
        if isinstance(finding, Exception):
            raise finding
        return finding


def settings(workdir: Path, **fields: Any) -> Settings:
    return Settings(server="ws://h", device_id="lab-1", platform="linux", workdir=workdir, **fields)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def profiler(workdir: Path, machine: Machine, shelf: Shelf) -> Profiler:
    made = Profiler(settings(workdir), shelf, checks=machine.checks())
    await made.start()
    return made


async def test_the_profile_of_this_machine_has_the_documented_shape(workdir: Path, shelf: Shelf) -> None:
    profiler = Profiler(settings(workdir, tags=("lab",), custom_metadata={"room": 5}), shelf)
    await profiler.start()
    version, profile = profiler.published()
    assert version == 1
    info = profile["system_info"]
    assert set(info) == {
        "device_id",
        "platform",
        "os_version",
        "cpu_count",
        "memory_total_gb",
        "hostname",
        "ip_address",
        "supported_features",
        "platform_type",
        "schema_version",
        "custom_metadata",
        "tags",
    }
    assert (info["tags"], info["custom_metadata"]) == (["lab"], {"room": 5})
    assert "files" in info["supported_features"]
    assert {"model", "cores", "threads", "frequency_mhz"} <= set(profile["cpu"])
    assert {"total_gb", "available_gb"} <= set(profile["memory"])
    assert {"total_gb", "free_gb"} <= set(profile["disk"])
    assert "available" in profile["gpu"]
    assert {"hostname", "ip_address", "bandwidth_mbps"} <= set(profile["network"])
    assert {"platform", "version", "build"} <= set(profile["os"])
    assert isinstance(profile["installed_apps"], list)
    assert profile["mcp_servers"] == ["local"]
    assert profile["tools"] == shelf.tools
    assert profile["registration_time"]


async def test_a_check_that_fails_fails_alone_and_says_why(workdir: Path, machine: Machine, shelf: Shelf) -> None:
    machine.findings |= {"gpu": RuntimeError("driver on fire"), "memory": OSError("no memory"), "network": KeyError()}
    profiler = Profiler(settings(workdir), shelf, checks=machine.checks())
    await profiler.start()
    profile = profiler.published()[1]
    assert profile["gpu"] == {"error": "driver on fire"}
    assert profile["network"] == {"error": "KeyError"}
    assert profile["cpu"]["cores"] == 4
    assert profile["system_info"]["memory_total_gb"] == 0.0
    assert profile["system_info"]["ip_address"] == "127.0.0.1"


async def test_a_check_that_hangs_is_given_up_and_not_started_again_meanwhile() -> None:
    release, started = threading.Event(), []

    def hangs() -> str:
        started.append(1)
        release.wait(PATIENCE_S)
        return "at last"

    checks = BoundedChecks({"slow": hangs, "quick": lambda: "here"}, timeout_s=2.0)
    try:
        assert await checks.run() == {"slow": {"error": "not known after 2 s"}, "quick": "here"}
        assert await checks.run() == {"slow": {"error": "an earlier check has not come back"}, "quick": "here"}
        assert len(started) == 1
    finally:
        release.set()
    assert checks._back["slow"].wait(PATIENCE_S)
    assert await checks.run({"slow"}) == {"slow": "at last"}


@pytest.mark.parametrize(
    ("section", "finding", "told"),
    [
        ("memory", {"total_gb": 32.0, "available_gb": 21.9}, []),
        ("memory", {"total_gb": 32.0, "available_gb": 22.1}, ["memory.available_gb"]),
        ("memory", {"total_gb": 32.0, "available_gb": 17.9}, ["memory.available_gb"]),
        ("disk", {"total_gb": 100.0, "free_gb": 46.0}, []),
        ("disk", {"total_gb": 100.0, "free_gb": 44.0}, ["disk.free_gb"]),
        ("cpu", {"model": "C", "cores": 4, "threads": 8, "used_percent": 99.0}, []),
        ("network", {"hostname": "h", "ip_address": "10.0.0.2"}, ["system_info", "network.ip_address"]),
        ("installed_apps", ["x", "y"], ["installed_apps"]),
        ("gpu", {"available": True, "model": "G"}, ["gpu"]),
        ("gpu", {"error": "driver on fire"}, []),
        ("memory", {"error": "not known after 5 s"}, []),
    ],
)
async def test_only_what_matters_is_a_change(
    machine: Machine, profiler: Profiler, section: str, finding: Any, told: list[str]
) -> None:
    version, before = profiler.published()
    machine.findings[section] = finding
    await profiler.refresh()
    assert meaningful_changes(before, profiler.published()[1]) == told
    assert profiler.published()[0] == version + bool(told)


async def test_small_steps_add_up_to_a_change(machine: Machine, profiler: Profiler) -> None:
    versions = []
    for free_gb in (48.0, 46.0, 44.0, 42.0):
        machine.findings["disk"] = {"total_gb": 100.0, "free_gb": free_gb}
        await profiler.refresh()
        versions.append(profiler.published()[0])
    assert versions == [1, 1, 2, 2]


async def test_tools_that_come_and_go_are_told_at_once(profiler: Profiler, shelf: Shelf) -> None:
    waiting = asyncio.create_task(profiler.newer(1))
    await asyncio.sleep(0)
    profiler.tools_changed()
    await asyncio.sleep(0)
    assert not waiting.done()
    shelf.connected = False
    shelf.tools = []
    profiler.tools_changed()
    async with asyncio.timeout(PATIENCE_S):
        version, profile = await waiting
    assert version == 2
    assert (profile["mcp_servers"], profile["tools"]) == ([], [])


async def test_the_profile_is_refreshed_by_itself(workdir: Path, machine: Machine, shelf: Shelf) -> None:
    profiler = Profiler(settings(workdir), shelf, checks=machine.checks(), refresh_s=0.01)
    await profiler.start()
    running = asyncio.create_task(profiler.run())
    machine.findings["network"] = {"hostname": "h", "ip_address": "10.0.0.9"}
    async with asyncio.timeout(PATIENCE_S):
        _, profile = await profiler.newer(1)
    assert profile["system_info"]["ip_address"] == "10.0.0.9"
    running.cancel()


async def test_tools_too_many_to_describe_are_named(profiler: Profiler, shelf: Shelf) -> None:
    shelf.tools = [
        {"tool_key": f"action::{n}", "tool_name": str(n), "description": "x" * 1000}
        for n in range(MAX_TOOLS_BYTES // 1000)
    ]
    profiler.tools_changed()
    assert profiler.published()[1]["tools"] == shelf.names()


async def test_a_fresh_profile_does_not_repeat_the_slow_checks(machine: Machine, profiler: Profiler) -> None:
    machine.findings["installed_apps"] = ["later"]
    machine.findings["cpu"] = {"model": "D", "cores": 1, "threads": 1}
    profile = await profiler.fresh()
    assert (profile["installed_apps"], profile["cpu"]["model"]) == (["x"], "D")
    assert (await profiler.summary())["tools"] == ["a"]


def test_features_follow_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert "gui" not in features("linux")
    monkeypatch.setenv("DISPLAY", ":0")
    assert "gui" in features("linux")


def test_applications_come_from_desktop_entries_and_packages_without_libraries(tmp_path: Path) -> None:
    folder = tmp_path / "applications"
    folder.mkdir()
    (folder / "a.desktop").write_text("[Desktop Entry]\nType=Application\nName=Alpha\n[Desktop Action x]\nName=No\n")
    (folder / "b.desktop").write_text("[Desktop Entry]\nType=Application\nName=Beta\nNoDisplay=true\n")
    (folder / "c.desktop").write_bytes(b"\xff\xfe rubbish")
    status = tmp_path / "status"
    status.write_text(
        "Package: git\nStatus: install ok installed\n\nPackage: libc6\nStatus: install ok installed\n\n"
        "Package: gone\nStatus: deinstall ok config-files\n"
    )
    assert installed_apps((folder, tmp_path / "none"), status) == ["Alpha", "git"]
    status.write_text("".join(f"Package: p{n:04}\nStatus: install ok installed\n\n" for n in range(1000)))
    assert len(installed_apps((), status)) == 200


def program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_graphics_are_found_in_three_ways_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, driver = tmp_path / "bin", tmp_path / "driver"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert gpu(driver) == {"available": False}
    program(programs, "lspci", 'echo "00:02.0 VGA compatible controller: Intel HD 5 (rev 2)"')
    assert gpu(driver)["model"] == "Intel HD 5 (rev 2)"
    (driver / "0000").mkdir(parents=True)
    (driver / "0000" / "information").write_text("Model: \t NVIDIA T4\nIRQ: 1\n")
    assert gpu(driver)["model"] == "NVIDIA T4"
    program(programs, "nvidia-smi", 'echo "NVIDIA A100, 81920"')
    found = gpu(driver)
    assert (found["available"], found["model"], found["vram_gb"]) == (True, "NVIDIA A100", 80.0)
    program(programs, "nvidia-smi", "exec sleep 60")
    monkeypatch.setattr(hardware, "PROGRAM_S", 0.05)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert gpu(driver)["model"] == "NVIDIA T4"
