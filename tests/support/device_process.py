"""`aip-device` as a process of its own, with a file of settings, against a real node."""

import sys
from pathlib import Path
from typing import Any

import yaml

from tests.integration.harness.processes import Process, clean_environment

__all__ = ["DeviceProcess"]


class DeviceProcess(Process):
    """One device agent; `workdir` is its working folder."""

    def __init__(self, device_id: str, directory: Path, ws_url: str, *servers: dict[str, Any]) -> None:
        self.device_id = device_id
        self.workdir = directory / "work"
        self.workdir.mkdir(parents=True)
        settings = directory / "device.yaml"
        settings.write_text(yaml.safe_dump({"mcp_servers": list(servers)}), encoding="utf-8")
        argv = [sys.executable, "-m", "aip_cluster.device", "start", "--server", ws_url, "--id", device_id]
        argv += ["--config", str(settings), "--workdir", str(self.workdir)]
        super().__init__(device_id, argv, directory / "device.log", clean_environment())
