"""A cluster that a test plays: REST and WebSockets on one address, devices that come, go, and do as told.

What ends while an orchestrator is away is told at its next registration.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.protocol import State

LOST = "Task was cancelled because target device disconnected"
ON_REQUEST = "Task was cancelled on request"


@dataclass
class Session:
    """A task as this cluster stores it."""

    session_id: str
    device_id: str
    request: str
    metadata: dict[str, Any]
    task_name: str
    state: str = "running"
    result: Any = None
    error: str | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, state: str, *, result: Any = None, error: str | None = None) -> None:
        """The first end counts."""
        if not self.over.is_set():
            self.state, self.result, self.error = state, result, error
            self.over.set()


Work = Callable[[Session], Awaitable[None]]


async def echo(session: Session) -> None:
    """Complete at once; the result is what was asked for."""
    session.end("completed", result=session.request)


class Cluster:
    """`work` is what every device does with a task. Sockets that break and REST that is out can be played too."""

    def __init__(self, work: Work = echo) -> None:
        self.work = work
        self.devices: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, Session] = {}
        self.arrived: asyncio.Queue[Session] = asyncio.Queue()
        self.cancelled: list[str] = []
        self.most_at_once: Counter[str] = Counter()
        self.is_silent = False
        self.refuse: Callable[[str], str | None] = lambda device_id: None
        self._at_work: Counter[str] = Counter()
        self._sockets: dict[str, ServerConnection] = {}
        self._untold: dict[str, list[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._door: asyncio.Server | None = None
        self._websockets: Server | None = None

    # -- the fleet -----------------------------------------------------------------------------------------------
    def join(self, *device_ids: str, **fields: Any) -> None:
        for device_id in device_ids:
            entry = {
                "client_id": device_id,
                "client_type": "device",
                "platform": "linux",
                "features": [],
                "profile": {},
            }
            self.devices[device_id] = entry | fields

    def lose(self, device_id: str) -> None:
        """The device's socket closes: it is listed no more, and its sessions are cancelled."""
        self.devices.pop(device_id, None)
        for session in self.sessions.values():
            if session.device_id == device_id:
                session.end("cancelled", error=LOST)

    async def break_sockets(self) -> None:
        """Every orchestrator's socket closes; the sessions go on."""
        for socket in list(self._sockets.values()):
            await socket.close(1012)

    def ran_on(self, task_id: str) -> list[str]:
        return [s.device_id for s in self.sessions.values() if s.session_id.partition("@")[2].startswith(f"{task_id}.")]

    # -- the server ----------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        self._websockets = await serve(self._hold, "127.0.0.1", 0, compression=None)
        self._door = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._door is not None
        assert self._websockets is not None
        self._door.close()
        self._websockets.close()
        await self._websockets.wait_closed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._door is not None
        return f"ws://127.0.0.1:{self._door.sockets[0].getsockname()[1]}/ws"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode().split(" ", 2)
            if target == "/ws" and not self.is_silent:
                await self._pass_on(head, reader, writer)
            elif not self.is_silent:
                status, value = self._rest(method, target)
                body = json.dumps(value).encode()
                writer.write(
                    f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
                )
                await writer.drain()
        writer.close()

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._websockets is not None
        port = self._websockets.sockets[0].getsockname()[1]
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        inner_writer.write(head)
        inward = asyncio.create_task(_pump(reader, inner_writer))
        try:
            await _pump(inner_reader, writer)
        finally:
            inward.cancel()
            inner_writer.close()

    def _rest(self, method: str, target: str) -> tuple[int, Any]:
        if target == "/api/clients?detail=1":
            return 200, {"online_clients": sorted(self.devices), "clients": list(self.devices.values())}
        parts = target.split("/")
        session = self.sessions.get(unquote(parts[3]))
        if session is None:
            return 404, {"detail": "Unknown session"}
        if method == "POST":
            fresh = not session.over.is_set()
            session.end("cancelled", error=ON_REQUEST)
            self.cancelled.append(session.session_id)
            return 200, {"session_id": session.session_id, "state": session.state, "cancelled": fresh}
        return 200, {
            "session_id": session.session_id,
            "state": session.state,
            "result": session.result,
            "error": session.error,
        }

    async def _hold(self, socket: ServerConnection) -> None:
        registration = json.loads(await socket.recv())
        device_id = registration["target_id"]
        refusal = self.refuse(device_id)
        if refusal is None and device_id not in self.devices:
            refusal = f"Target device '{device_id}' is not connected"
        if refusal is not None:
            await socket.send(json.dumps({"type": "error", "status": "error", "error": refusal}))
            return
        client_id = registration["client_id"]
        await socket.send(json.dumps({"type": "heartbeat", "status": "ok"}))
        self._sockets[client_id] = socket
        for end in self._untold.pop(client_id, []):
            await socket.send(json.dumps(end))
        try:
            async for raw in socket:
                frame = json.loads(raw)
                if frame["type"] == "task":
                    task = asyncio.create_task(self._serve(socket, device_id, frame))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        finally:
            if self._sockets.get(client_id) is socket:
                del self._sockets[client_id]

    async def _serve(self, socket: ServerConnection, device_id: str, frame: dict[str, Any]) -> None:
        sid = frame["session_id"]
        if device_id not in self.devices:
            error = f"Target device '{device_id}' is not connected"
            await _send(socket, "task_end", "failed", session_id=sid, error=error)
            return
        assert sid not in self.sessions, "a session id was used twice"
        session = Session(sid, device_id, frame["request"], frame.get("metadata") or {}, frame["task_name"])
        self.sessions[sid] = session
        self.arrived.put_nowait(session)
        await _send(socket, "heartbeat", "ok", session_id=sid)
        self._at_work[device_id] += 1
        self.most_at_once[device_id] = max(self.most_at_once[device_id], self._at_work[device_id])
        working = asyncio.ensure_future(self.work(session))
        try:
            await session.over.wait()
        finally:
            self._at_work[device_id] -= 1
            working.cancel()
        status = "completed" if session.state == "completed" else "failed"
        end = {"type": "task_end", "status": status, "session_id": sid, "result": session.result}
        await self._tell(frame["client_id"], {**end, "error": session.error})

    async def _tell(self, client_id: str, frame: dict[str, Any]) -> None:
        socket = self._sockets.get(client_id)
        if socket is None or socket.state is not State.OPEN:
            self._untold.setdefault(client_id, []).append(frame)
        else:
            await socket.send(json.dumps(frame))


async def _send(socket: ServerConnection, kind: str, status: str, **fields: Any) -> None:
    # A socket that is gone is part of what is played here.
    with contextlib.suppress(Exception):
        await socket.send(json.dumps({"type": kind, "status": status, **fields}))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
