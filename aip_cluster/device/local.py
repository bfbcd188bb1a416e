"""A cluster and a device in one process, for development: one task, its steps as they come, its result.

The cluster is found through the entry point group `aip_cluster.local`: an object that, called, gives an async context
manager, which yields the address of the node's WebSocket; REST is served under the same host and port. A client's
machine need not have one, and this module is the only one here that asks for it.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TextIO

import httpx

from aip_cluster.device.agent import Agent, running
from aip_cluster.device.config import ConfigError, load
from aip_cluster.protocol.session_states import TERMINAL
from aip_cluster.sockets import http_base

__all__ = ["LocalTask", "read_commands", "run_local"]

GROUP = "aip_cluster.local"
DEVICE_ID = "local"
READY_S = 30.0
POLL_S = 0.1
REST_S = 30.0
SHOWN_CHARS = 200

Cluster = Callable[[], AbstractAsyncContextManager[str]]


def read_commands(given: str | None) -> list[dict[str, Any]] | None:
    """The commands of `--commands`: JSON, or `@FILE`. Raises ConfigError."""
    if given is None:
        return None
    try:
        text = Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
        commands = json.loads(text)
    except OSError as exc:
        raise ConfigError(f"--commands: {given[1:]}: {exc.strerror or exc}") from None
    except ValueError as exc:
        raise ConfigError(f"--commands: is not JSON: {exc}") from None
    if isinstance(commands, dict):
        commands = [commands]
    if not isinstance(commands, list) or not all(isinstance(c, dict) and "tool_name" in c for c in commands):
        raise ConfigError("--commands: must be a list of objects, each with a tool_name")
    return commands


def find_cluster() -> Cluster:
    """The cluster that is installed here. Raises ConfigError if there is none."""
    found = next(iter(entry_points(group=GROUP)), None)
    if found is None:
        raise ConfigError("there is no node installed here: pip install 'aip-cluster-server[embedded]'")
    try:
        cluster: Cluster = found.load()
    except ImportError as exc:
        raise ConfigError(f"the node cannot be loaded: {exc}") from exc
    return cluster


class LocalTask:
    """A task over REST, followed to its end; what happens is written to `out`."""

    def __init__(self, base_url: str, *, api_key: str | None, out: TextIO) -> None:
        headers = {"X-API-Key": api_key} if api_key else None
        # No proxy stands between us and our own process, whatever the environment says.
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=REST_S, trust_env=False)
        self._out = out

    async def run(
        self, client_id: str, request: str, commands: list[dict[str, Any]] | None, planner: str | None
    ) -> int:
        """Dispatch, follow, and return the exit code."""
        body = {"client_id": client_id, "request": request, "commands": commands, "planner": planner}
        async with self._http:
            response = await self._http.post(
                "/api/dispatch", json={key: value for key, value in body.items() if value is not None}
            )
            if not response.is_success:
                self._say(f"refused ({response.status_code}): {_detail(response)}")
                return 2 if response.status_code in {400, 422} else 1
            session_id = response.json()["session_id"]
            self._say(f"session {session_id}")
            session = await self._follow(session_id)
        self._say(f"{session['state']}" + (f": {session['error']}" if session.get("error") else ""))
        if session.get("result") is not None:
            self._say(json.dumps(session["result"], indent=2, ensure_ascii=False))
        return 0 if session["state"] == "completed" else 1

    async def _follow(self, session_id: str) -> dict[str, Any]:
        seen = 0
        while True:
            response = await self._http.get(f"/api/sessions/{session_id}")
            response.raise_for_status()
            session: dict[str, Any] = response.json()
            steps = session.get("steps") or []
            for step in steps[seen:]:
                self._say(f"  {_step(step)}")
            seen = len(steps)
            if session["state"] in TERMINAL:
                return session
            await asyncio.sleep(POLL_S)

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)


async def run_local(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, cluster: Cluster | None = None, out: TextIO | None = None
) -> int:
    """Run one task and return the exit code: 0 completed, 1 failed, 2 it could not even be asked for.

    `flags` are those of `aip-device local`. Raises ConfigError.
    """
    out = out or sys.stdout
    commands = read_commands(flags.get("commands"))
    cluster = cluster or find_cluster()
    async with cluster() as url:
        settings = load({"device_id": DEVICE_ID, **flags, "server": url}, environ)
        agent = Agent(settings)
        async with running(agent) as working:
            await _registered(agent, working)
            key = settings.token.get_secret_value() if settings.token is not None else None
            task = LocalTask(http_base(settings.server), api_key=key, out=out)
            try:
                return await task.run(settings.device_id, flags["request"], commands, flags.get("planner"))
            except httpx.HTTPError as exc:
                print(f"the node does not answer: {exc or type(exc).__name__}", file=out)
                return 1


async def _registered(agent: Agent, working: asyncio.Task[None]) -> None:
    waiting = asyncio.create_task(agent.registered.wait())
    try:
        await asyncio.wait([waiting, working], timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ConfigError("the device could not register with the node; --log-level info says more")
    finally:
        waiting.cancel()


def _step(step: Mapping[str, Any]) -> str:
    """One step in one line: what happened, and the rest of what is told about it."""
    told = {key: value for key, value in step.items() if key not in {"at_ms", "type", "event", "session_id"}}
    name = str(step.get("type") or step.get("event") or "step")
    text = json.dumps(told, ensure_ascii=False) if told else ""
    return f"{name} {text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + '…'}".rstrip()


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.reason_phrase
    return str(body.get("detail")) if isinstance(body, dict) else response.reason_phrase
