"""An orchestrator's hold on a cluster: its devices, and tasks on many of them at once.

One socket per device, opened by the first call that needs it and kept. When it breaks, the runs on it wait while
another is opened, and take what ended meanwhile; a run fails with `ConnectionLost` only when the cluster cannot be
reached for a minute, and its task may then be going on. No task is run twice: what is sent again has the same session
id, which the cluster runs once.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from aip_cluster.constellation.device_channel import DeviceChannel
from aip_cluster.constellation.errors import ConnectionLost, RequestFailed
from aip_cluster.protocol import Command, ProtocolError, new_id
from aip_cluster.protocol.ids import check_client_id, check_session_id, check_task_path
from aip_cluster.sockets import http_base, websocket_url

__all__ = ["ConstellationClient", "TaskResult"]

ACKNOWLEDGE_S = 30.0
# How long after the server's own deadline its `task_end` may still come.
GRACE_S = 30.0
INFO_S = 30.0
REST_S = 30.0


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended: `status` is `completed` or `failed`, `duration_s` is what the caller waited."""

    session_id: str
    status: str
    result: Any
    error: str | None
    duration_s: float

    @property
    def succeeded(self) -> bool:
        """Whether the task completed."""
        return self.status == "completed"


class ConstellationClient:
    """A constellation called `name`. Use as an async context manager; safe for many concurrent calls on one loop.

    The name is part of the identity that the cluster knows: two clients at work at once need two names. Raises
    ValueError for an address or a name that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        api_key: str | None = None,
        heartbeat_s: float = 20.0,
    ) -> None:
        self._url = websocket_url(url)
        self._name = _checked(check_client_id, name, "name")
        self._api_key = api_key
        self._heartbeat_s = heartbeat_s
        self._http = httpx.AsyncClient(
            base_url=http_base(url), headers={"X-API-Key": api_key} if api_key else None, timeout=REST_S
        )
        # A task name is a path to its readers, and a client's name may hold what a path may not.
        self._task_folder = f"galaxy/{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"
        self._steps = itertools.count(1)
        self._channels: dict[str, DeviceChannel] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every socket with 1000; pending runs fail with ConnectionLost. May be called again."""
        self._closed = True
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*(channel.close() for channel in channels))
        await self._http.aclose()

    async def devices(self) -> list[dict[str, Any]]:
        """The devices connected anywhere in the cluster, as the REST API describes them.

        Raises RequestFailed, or ConnectionLost if no node answers.
        """
        body = await self._rest("GET", "/api/clients?detail=1")
        clients = body.get("clients")
        if isinstance(clients, list):
            return [c for c in clients if isinstance(c, dict) and c.get("client_type", "device") == "device"]
        return [{"client_id": client_id} for client_id in body.get("online_clients", [])]

    async def run(
        self,
        device_id: str,
        request: str,
        *,
        commands: Sequence[Command | Mapping[str, Any]] | None = None,
        task_name: str | None = None,
        timeout_s: float | None = None,
        planner: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> TaskResult:
        """Run one task on one device and wait for its end.

        `commands` are carried out as they are; without them the server's planner, or `planner`, decides. `task_name`
        names the step; absent, steps are numbered. `timeout_s` is the server's deadline for the task; without it, its
        default holds. `session_id` is made up if absent, and must be new to the cluster.

        Raises DeviceNotConnected, RegistrationRefused, TaskRefused, ConnectionLost, TaskTimeout, or ValueError for a
        command or a task name that cannot be sent. A task that fails is returned, not raised.

        Cancelling is safe and forgets the task on this side only: the server goes on with it and keeps its result.
        To end it there, give it a `session_id` and `cancel` that.
        """
        extra = dict(metadata or {})
        session_id = session_id if session_id is not None else f"{self._name}@{new_id()}"
        _checked(check_session_id, session_id, "session_id")
        step = task_name if task_name is not None else f"step{next(self._steps)}"
        name = _checked(check_task_path, f"{self._task_folder}/{step}", "task_name")
        if commands is not None:
            extra["commands"] = [_command(command) for command in commands]
        if planner is not None:
            extra["planner"] = planner
        if timeout_s is not None:
            extra["timeout_s"] = timeout_s
        started = time.monotonic()
        end = await self._channel(device_id).run(
            session_id,
            request,
            task_name=name,
            metadata=extra,
            acknowledge_s=ACKNOWLEDGE_S,
            timeout_s=None if timeout_s is None else timeout_s + GRACE_S,
        )
        return TaskResult(session_id, end.status.value, end.result, end.error, time.monotonic() - started)

    async def device_info(self, device_id: str) -> dict[str, Any]:
        """What the cluster knows about a device: its system information, with what its operators added.

        Raises RequestFailed, DeviceNotConnected, RegistrationRefused or ConnectionLost. Cancelling is safe.
        """
        info = await self._channel(device_id).device_info(INFO_S)
        if not isinstance(info, dict):
            raise RequestFailed("the server's device information is not an object")
        return info

    async def cancel(self, session_id: str) -> dict[str, Any]:
        """End a session in the cluster, whoever started it; its `run`, if pending, returns or raises as the server
        says. Raises RequestFailed, with `status_code` 404 for a session that is not known, or ConnectionLost."""
        return await self._rest("POST", f"/api/sessions/{quote(session_id, safe='')}/cancel")

    async def session(self, session_id: str) -> dict[str, Any]:
        """A session as the cluster has stored it: `state`, `result`, `error`, times and steps. Raises as `cancel`."""
        return await self._rest("GET", f"/api/sessions/{quote(session_id, safe='')}")

    def _channel(self, device_id: str) -> DeviceChannel:
        if self._closed:
            raise ConnectionLost("the client was closed")
        if device_id not in self._channels:
            self._channels[device_id] = DeviceChannel(
                self._url,
                _checked(check_client_id, f"{self._name}@{device_id}", "device_id"),
                device_id,
                api_key=self._api_key,
                heartbeat_s=self._heartbeat_s,
                look=self.session,
            )
        return self._channels[device_id]

    async def _rest(self, method: str, path: str) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path)
        except httpx.HTTPError as exc:
            raise ConnectionLost(f"{method} {path}: {exc or type(exc).__name__}") from exc
        try:
            body = response.json()
        except ValueError:
            body = None
        if not response.is_success:
            detail = body.get("error") or body.get("detail") if isinstance(body, dict) else None
            raise RequestFailed(
                f"{method} {path}: {response.status_code} {detail or response.reason_phrase}",
                status_code=response.status_code,
            )
        if not isinstance(body, dict):
            raise RequestFailed(f"{method} {path}: the answer is not a JSON object", status_code=response.status_code)
        return body


def _checked(check: Callable[[str, str], str], value: str, field: str) -> str:
    try:
        return check(value, field)
    except ProtocolError as exc:
        raise ValueError(str(exc)) from None


def _command(command: Command | Mapping[str, Any]) -> dict[str, Any]:
    """A command as it travels; it gets a `call_id` if it has none, so that its result can be told apart."""
    checked = command if isinstance(command, Command) else Command.model_validate(dict(command))
    return {
        "tool_name": checked.tool_name,
        "parameters": checked.parameters or {},
        "tool_type": checked.tool_type,
        "call_id": checked.call_id or new_id(),
    }
