"""A client on a raw socket: it registers, keeps alive, and comes back, as the clients in the field do.

Written from the wire and not with `aip_cluster`, so that a mistake there cannot hide one of the cluster. Frames are
flat JSON objects. What a client does with them is its subclass's affair.
"""

import asyncio
import contextlib
import random
from typing import Any, ClassVar

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from aip_cluster.protocol import new_id, utc_now
from devtools.chaos.ledger import Deed, Ledger
from devtools.proxy import Proxy

__all__ = ["Client", "Frame"]

Frame = dict[str, Any]
OPEN_S = 8.0
REGISTRATION_S = 12.0
HEARTBEAT_S = 4.0
SILENCE_S = 15.0
RETRY_BASE_S = 0.25
RETRY_CAP_S = 2.0


class _NotAdmitted(Exception):
    """The registration was refused."""


class Client:
    """One client id with one socket at a time. `run` is its life; cancelling it closes the socket with 1000."""

    client_type: ClassVar[str] = "device"
    features: ClassVar[tuple[str, ...]] = ()

    def __init__(self, client_id: str, line: Proxy, ledger: Ledger, rng: random.Random) -> None:
        self.client_id = client_id
        self.line = line
        self.ledger = ledger
        self._rng = rng
        self._socket: ClientConnection | None = None
        self._resume_token: str | None = None
        self._here = asyncio.Event()
        self._here.set()
        self._failures = 0
        self._retry_after_s: float | None = None
        self._last_heard_s = 0.0
        # How often it has been registered; the number of the present connection.
        self.connections = 0

    @property
    def connected(self) -> bool:
        """Whether it is registered, as far as it knows."""
        return self._socket is not None

    # -- what subclasses say and do --------------------------------------------------------------------------------
    def metadata(self) -> Frame:
        """The metadata of the registration."""
        raise NotImplementedError

    def registration(self) -> Frame:
        """The first frame."""
        metadata = self.metadata()
        if self._resume_token is not None:
            metadata["resume_token"] = self._resume_token
        return self.frame("register", metadata=metadata)

    def on_connected(self) -> None:
        """It is registered."""

    def on_frame(self, frame: Frame) -> None:
        """A frame came. Must not block."""

    def next_delay_s(self) -> float:
        """How long to wait before connecting again: full jitter, as our clients do it."""
        if self._retry_after_s is not None:
            return self._retry_after_s + self._rng.uniform(0.0, 0.5)
        return self._rng.uniform(0.0, min(RETRY_CAP_S, RETRY_BASE_S * 2 ** min(self._failures, 6)))

    # -- life ------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Be connected for ever."""
        while True:
            await self._here.wait()
            self._retry_after_s = None
            try:
                await self._connect_once()
            except _NotAdmitted as exc:
                self._failed(str(exc))
            except InvalidStatus as exc:
                wait = exc.response.headers.get("Retry-After", "")
                self._retry_after_s = float(wait) if wait.replace(".", "", 1).isdigit() else None
                self._failed(f"the upgrade was answered with {exc.response.status_code}")
            except (OSError, TimeoutError, WebSocketException) as exc:
                self._failed(repr(exc)[:160])
            await asyncio.sleep(self.next_delay_s())

    def _failed(self, why: str) -> None:
        self._failures += 1
        self.ledger.note(Deed.NOT_ADMITTED, self.client_id, text=f"attempt {self._failures}: {why}")

    async def _connect_once(self) -> None:
        """One connection from opening to its end."""
        async with connect(
            f"ws://127.0.0.1:{self.line.port}/ws",
            proxy=None,
            compression=None,
            max_size=None,
            ping_interval=None,
            close_timeout=1.0,
            open_timeout=OPEN_S,
        ) as socket:
            async with asyncio.timeout(REGISTRATION_S):
                await self._register(socket)
            self._failures = 0
            self.connections += 1
            self._socket = socket
            self.ledger.note(Deed.CONNECTED, self.client_id, text=f"connection {self.connections}")
            beating = asyncio.create_task(self._beat(socket))
            try:
                self.on_connected()
                async for raw in socket:
                    self._take(orjson.loads(raw))
            except ConnectionClosed:
                pass
            finally:
                self._socket = None
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
                text = f"{socket.close_code or 1006} {socket.close_reason or ''}"
                self.ledger.note(Deed.DISCONNECTED, self.client_id, text=text)

    async def _register(self, socket: ClientConnection) -> None:
        await socket.send(orjson.dumps(self.registration()), text=True)
        while True:
            frame = orjson.loads(await socket.recv())
            if frame["type"] == "error":
                raise _NotAdmitted(str(frame.get("error")))
            if frame["type"] == "heartbeat" and frame.get("status") == "ok":
                result = frame.get("result")
                if isinstance(result, dict) and isinstance(result.get("resume_token"), str):
                    self._resume_token = result["resume_token"]
                self._last_heard_s = self.ledger.now_s
                return
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        self._last_heard_s = self.ledger.now_s
        self.on_frame(frame)

    async def _beat(self, socket: ClientConnection) -> None:
        """Heartbeats; a node that stays silent is given up, as a frozen one must be."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self.ledger.now_s - self._last_heard_s > SILENCE_S:
                socket.transport.abort()
                return
            await self.send(self.frame("heartbeat"))

    # -- speaking --------------------------------------------------------------------------------------------------
    def frame(self, kind: str, **fields: object) -> Frame:
        """A message of this client's."""
        return {
            "type": kind,
            "status": "ok",
            "client_type": self.client_type,
            "client_id": self.client_id,
            "timestamp": utc_now(),
            "request_id": new_id(),
            **fields,
        }

    async def send(self, frame: Frame) -> bool:
        """Send a frame; False if it certainly did not leave."""
        socket = self._socket
        if socket is None:
            return False
        with contextlib.suppress(ConnectionClosed):
            await socket.send(orjson.dumps(frame), text=True)
            return True
        return False

    # -- faults ----------------------------------------------------------------------------------------------------
    async def leave(self, for_s: float, *, in_order: bool) -> None:
        """Go, saying so (1000) or not, and come back after `for_s`."""
        self._here.clear()
        if in_order and self._socket is not None:
            await self._socket.close()
        self.line.cut()
        await asyncio.sleep(for_s)
        self._here.set()
