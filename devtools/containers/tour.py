"""README's tour through nginx of compose.yaml, and what a container is for: it is drained, killed, and comes back."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devtools.bootstrap import VENV
from devtools.containers.compose import Compose
from devtools.demo import DEVICE_ID
from devtools.outcome import Exit, ScriptError, say
from devtools.processes import Child, spawn
from devtools.web import Answer, Unreachable, ask

__all__ = ["Tour", "start_device"]

PATIENCE_S = 90.0
LOOK_EVERY_S = 0.2
WORK_S = 4
INTERPRETER_S = 0.2
START_GRACE_S = 20
# What could build a program, in an image that only has to run one; and what could fetch one.
UNWANTED = ("gcc", "cc", "g++", "c++", "clang", "tcc", "as", "ld", "make", "cargo", "go", "pip", "pip3")


def start_device(compose: Compose, run_dir: Path) -> Child:
    """A real device of ours, on this machine, as README starts one."""
    workdir = run_dir / "device"
    workdir.mkdir()
    url = compose.base_url.replace("http", "ws", 1) + "/ws"
    command = [str(VENV / "bin" / "aip-device"), "start", "--server", url, "--id", DEVICE_ID, "--workdir", str(workdir)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIP_")}
    env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
    log = run_dir / "logs" / "device.log"
    return spawn("device", command, log=log, env=env, cwd=run_dir, die_with_parent=signal.SIGTERM)


class Tour:
    """The steps, in order. Each raises ScriptError if what it expects does not come."""

    def __init__(self, compose: Compose, device: Child) -> None:
        self._compose = compose
        self._engine = compose.engine
        self._device_log = device.log

    def run(self) -> None:
        """All of it."""
        self._await("the device is connected", lambda: DEVICE_ID in self._get("/api/clients")["online_clients"])
        self._nodes_are_back()
        self._first_task()
        self._hardened()
        self._reload_of_nginx()
        self._drain_through_nginx()
        self._stop_of_a_container()
        self._kill_of_a_container()
        self._stop_of_a_starting_container()
        self._targets_of_prometheus()

    def _first_task(self) -> None:
        commands = [_execute("uname -a"), {"tool_name": "get_system_info"}]
        done = self._result(self._dispatch("which-machine", commands))
        if len(done["result"]) != len(commands) or any(one["status"] != "success" for one in done["result"]):
            raise _Failed(f"the first task ended with {done}")
        session = self._get(f"/api/sessions/{done['session_id']}")
        if session["state"] != "completed":
            raise _Failed(f"the session of the first task is {session['state']}")
        say(f"    which-machine: {done['result'][0]['result']['stdout'].strip()}")

    def _hardened(self) -> None:
        for node in self._compose.nodes:
            container = self._compose.container(node)
            if not self._compose.inspect(node)["HostConfig"]["ReadonlyRootfs"]:
                raise _Failed(f"{node} may write to its root file system")
            who = self._engine.docker("exec", container, "id", "-u").strip()
            if who == "0":
                raise _Failed(f"{node} runs as root")
            if self._engine.attempt("exec", container, "touch", "/written").returncode == 0:
                raise _Failed(f"{node} has written to its root file system")
        look = f"for name in {' '.join(UNWANTED)}; do command -v $name; done; python -m pip --version 2>/dev/null; true"
        if found := self._engine.docker("exec", container, "sh", "-c", look).split():
            raise _Failed(f"the image holds {', '.join(found)}")
        say(f"    user {who}, a root file system that is read-only, no compiler, no pip")

    def _reload_of_nginx(self) -> None:
        before = self._client()["since_ms"]
        self._compose.run("kill", "--signal", "HUP", "nginx")
        self._works("after-reload")
        if self._client()["since_ms"] != before:
            raise _Failed("a reload of nginx cut the socket of the device")
        say("    nginx took its configuration over and cut no socket")

    def _drain_through_nginx(self) -> None:
        """As the head of compose.yaml says: through the port for administrators."""
        node = self._holder()
        url = f"{self._compose.admin_url}/nodes/{self._compose.addresses[node]}:5000/api/nodes/self/drain"
        self._expect("POST", url)
        self._await(f"{node} drains, and the device is elsewhere", lambda: self._elsewhere(node))
        self._works("while-drained")
        self._expect("DELETE", url)
        self._await(f"{node} is taken back", lambda: not self._node(node)["draining"])
        say(f"    {node} was drained through nginx and taken back; the device went to {self._holder()}")

    def _stop_of_a_container(self) -> None:
        """The node of the device, with a task under way: `docker stop` waits for it."""
        node = self._holder()
        task = self._dispatch("at-work", [_execute(f"sleep {WORK_S}; echo finished")])
        steps = f"/api/sessions/{task['session_id']}"
        self._await("the device is at work", lambda: self._get(steps)["state"] == "running")
        began = time.monotonic()
        grace_s = self._compose.inspect(node)["Config"]["StopTimeout"]
        self._engine.docker("stop", "--time", str(grace_s), self._compose.container(node))
        took_s = time.monotonic() - began
        state = self._compose.inspect(node)["State"]
        if state["ExitCode"] != 0 or took_s >= grace_s:
            raise _Failed(f"docker stop of {node} took {took_s:.1f} s and its exit code is {state['ExitCode']}")
        if (printed := self._result(task)["result"][0]["result"]["stdout"]) != "finished\n":
            raise _Failed(f"the task that was under way ended with {printed!r}")
        self._works("after-stop")
        say(f"    {node}: docker stop took {took_s:.1f} s, exit code 0, nothing of the task was lost")
        self._engine.docker("start", self._compose.container(node))
        self._nodes_are_back()

    def _kill_of_a_container(self) -> None:
        """The node of the device, killed as a kernel out of memory kills: its container is started again."""
        node = self._holder()
        node_id = self._node(node)["node_id"]
        os.kill(self._compose.inspect(node)["State"]["Pid"], signal.SIGKILL)
        began = time.monotonic()
        self._await("the device is back, through another node", lambda: self._elsewhere(node))
        self._works("after-kill")
        back_s = time.monotonic() - began
        self._await(f"{node} was started again", lambda: self._compose.inspect(node)["RestartCount"] > 0)
        self._await(f"{node} is another process", lambda: self._node(node)["node_id"] != node_id)
        self._nodes_are_back()
        say(f"    {node}: killed; a task was done {back_s:.1f} s later, and its container is back")

    def _stop_of_a_starting_container(self) -> None:
        """As the first process of its container it is sent no signal that it does not handle, and imports for long."""
        node = next(node for node in self._compose.nodes if node != self._holder())
        container = self._compose.container(node)
        grace_s = self._compose.inspect(node)["Config"]["StopTimeout"]
        self._engine.docker("stop", "--time", str(grace_s), container)
        self._engine.docker("start", container)
        # The interpreter itself is up by then, the node is not.
        time.sleep(INTERPRETER_S)
        self._engine.docker("stop", "--time", str(START_GRACE_S), container)
        if (code := self._compose.inspect(node)["State"]["ExitCode"]) != 0:
            raise _Failed(f"{node}, stopped while it started, ended with exit code {code}")
        say(f"    {node}: stopped while it started, exit code 0")
        self._engine.docker("start", container)
        self._nodes_are_back()

    def _targets_of_prometheus(self) -> None:
        url = f"{self._compose.prometheus_url}/api/v1/targets"

        def up() -> bool:
            targets = _ask("GET", url).body["data"]["activeTargets"]
            return len(targets) > len(self._compose.nodes) and all(target["health"] == "up" for target in targets)

        self._await("Prometheus reads every target", up)
        rules = _ask("GET", f"{self._compose.prometheus_url}/api/v1/rules").body["data"]["groups"]
        count = sum(len(group["rules"]) for group in rules)
        if not count:
            raise _Failed("Prometheus has no rules")
        say(f"    Prometheus: all targets up, {count} rules")

    # -- what the steps are made of ----------------------------------------------------------------------------------
    def _works(self, name: str) -> None:
        """A task that is dispatched now is done."""
        printed = self._result(self._dispatch(name, [_execute(f"echo {name}")]))["result"][0]["result"]["stdout"]
        if printed != f"{name}\n":
            raise _Failed(f"the task {name} ended with {printed!r}")

    def _dispatch(self, name: str, commands: list[dict[str, Any]]) -> dict[str, Any]:
        body = {"client_id": DEVICE_ID, "request": f"Try {name}", "task_name": name, "commands": commands}
        task: dict[str, Any] = self._expect("POST", f"{self._compose.base_url}/api/dispatch", body)
        return task

    def _result(self, task: dict[str, Any]) -> dict[str, Any]:
        name = task["task_name"]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answer = self._get(f"/api/task_result/{name}?wait=10")
            if answer["status"] == "done":
                if answer["state"] != "completed":
                    raise _Failed(f"the task {name} ended as {answer['state']}: {answer.get('error')}")
                return {**answer, "session_id": task["session_id"]}
        raise _Failed(f"the task {name} had no result after {PATIENCE_S:.0f} s")

    def _client(self) -> dict[str, Any]:
        (found,) = (one for one in self._get("/api/clients?detail=1")["clients"] if one["client_id"] == DEVICE_ID)
        client: dict[str, Any] = found
        return client

    def _holder(self) -> str:
        """The service whose node holds the device's socket."""
        return str(self._client()["node_id"]).rpartition(".")[0]

    def _elsewhere(self, node: str) -> bool:
        return DEVICE_ID in self._get("/api/clients")["online_clients"] and self._holder() != node

    def _node(self, service: str) -> dict[str, Any]:
        nodes = self._get("/api/nodes")["nodes"]
        (found,) = (one for one in nodes if one["node_id"].rpartition(".")[0] == service)
        node: dict[str, Any] = found
        return node

    def _nodes_are_back(self) -> None:
        def back() -> bool:
            nodes = self._get("/api/nodes")["nodes"]
            names = sorted(node["node_id"].rpartition(".")[0] for node in nodes if not node["draining"])
            return names == sorted(self._compose.nodes)

        self._await("every node is there, once", back)

    def _get(self, path: str) -> Any:
        return self._expect("GET", f"{self._compose.base_url}{path}")

    def _expect(self, method: str, url: str, body: object = None) -> Any:
        answer = _ask(method, url, body)
        if answer.status not in (200, 202):
            raise _Failed(f"{method} {url} was answered with {answer}")
        return answer.body

    def _await(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        last: ScriptError | ValueError | None = None
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
                last = None
            except (ScriptError, ValueError) as exc:
                # For a moment nobody may be there to answer, or a client be between two nodes.
                last = exc
            time.sleep(LOOK_EVERY_S)
        raise _Failed(f"it did not come to pass within {PATIENCE_S:.0f} s that {what}{f': {last}' if last else ''}")


class _Failed(ScriptError):
    """The cluster answered, and not with what it should."""

    def __init__(self, message: str) -> None:
        super().__init__(Exit.DEMO_FAILED, message)


def _ask(method: str, url: str, body: object = None) -> Answer:
    try:
        return ask(method, url, body, timeout_s=20.0)
    except Unreachable as exc:
        raise _Failed(str(exc)) from None


def _execute(command: str) -> dict[str, Any]:
    return {"tool_name": "execute_command", "parameters": {"command": command}}
