"""compose.yaml of this checkout, without Grafana, on free ports of the loopback interface."""

import json
from pathlib import Path
from typing import Any

import yaml

from devtools.bootstrap import ROOT
from devtools.containers.engine import Engine, open_files
from devtools.containers.images import COMPOSE
from devtools.outcome import Exit, ScriptError
from devtools.topologies import free_port

__all__ = ["Compose"]

PROJECT = "aip-containers"
# There is no package of it.
LEFT_OUT = {"grafana"}


class Compose:
    """Its containers. `up` may be called again after a failure; `down` leaves nothing, volumes included."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        ports = {"AIP_PORT": free_port(), "AIP_ADMIN_PORT": free_port(), "PROMETHEUS_PORT": free_port()}
        self.base_url = f"http://127.0.0.1:{ports['AIP_PORT']}"
        self.admin_url = f"http://127.0.0.1:{ports['AIP_ADMIN_PORT']}"
        self.prometheus_url = f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}"
        variables = {**ports, "AIP_NOFILE": open_files(), "DOCKER_HOST": f"unix://{engine.socket}"}
        self._variables = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
        self.services = [name for name in document["services"] if name not in LEFT_OUT]
        self.nodes = [name for name in self.services if name.startswith("node-")]
        self.addresses = {
            name: document["services"][name]["networks"]["cluster"]["ipv4_address"] for name in self.nodes
        }

    def up(self) -> None:
        """Returns once every container is healthy. Raises ScriptError with what Compose says."""
        self.run("up", "--detach", "--wait", "--no-build", "--pull", "never", *self.services)

    def down(self) -> None:
        """Stops and removes all of it."""
        self.run("down", "--volumes", "--remove-orphans")

    def run(self, *arguments: str) -> str:
        """Compose itself, which comes in an image, since Debian's next release has the first that reads the file."""
        folder = str(self.engine.socket.parent)
        mounts = ("--volume", f"{folder}:{folder}", "--volume", f"{ROOT}:{ROOT}:ro", "--workdir", str(ROOT))
        command = ("--project-name", PROJECT, "--env-file", "/dev/null", *arguments)
        return self.engine.docker("run", "--rm", "--network", "none", *mounts, *self._variables, COMPOSE, *command)

    def container(self, service: str) -> str:
        """Its name."""
        return f"{PROJECT}-{service}-1"

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of the container."""
        (found,) = json.loads(self.engine.docker("inspect", self.container(service)))
        known: dict[str, Any] = found
        return known

    def keep_logs(self, folder: Path) -> None:
        """Writes what each container has printed beside the logs of the engine."""
        for service in self.services:
            done = self.engine.attempt("logs", self.container(service))
            (folder / f"{service}.log").write_text(done.stdout + done.stderr, encoding="utf-8")

    def leftovers(self) -> None:
        """Raises ScriptError if `down` left anything of the project."""
        label = ("--filter", f"label=com.docker.compose.project={PROJECT}")
        left = [
            self.engine.docker(*command, "--quiet", *label).strip()
            for command in (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        ]
        if any(left):
            raise ScriptError(Exit.LOST, f"compose down left containers, networks or volumes: {left}")
