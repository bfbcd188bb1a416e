"""Devices by the thousand: sockets that register, say that they are alive, and answer tasks at once.

A device of the cluster works on its own (`autonomous`) and ends each task with one result. A device of python-socketio
connects into a room of its own name. What is told to come back later comes back then, once; `Fleet.refusals` counts.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import orjson

from devtools.bench.connections import Address
from devtools.bench.errors import BenchError
from devtools.bench.websocket import Refused, WebSocket

__all__ = ["AipDevice", "Device", "Fleet", "SocketIoDevice"]

MARK = b"bench#"
HEARTBEAT = b'{"type":"heartbeat","status":"ok"}'
BEAT_TICK_S = 0.05
LEAVE_AT_ONCE = 200
REGISTER_PATIENCE_S = 60.0


class Device(WebSocket):
    """One device; `registered` is done once it is, and failed if it was refused or cut before."""

    __slots__ = ("_on_task", "client_id", "registered")

    def __init__(self, address: Address, path: str, client_id: str, on_task: Callable[[int, int], None]) -> None:
        super().__init__(address, path)
        self.client_id = client_id
        self._on_task = on_task
        self.registered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_end(self, error: Exception) -> None:
        if not self.registered.done():
            self.registered.set_exception(error)

    def heartbeat(self) -> None:
        """Say that it is alive."""

    def _note(self, message: bytes, at_ns: int) -> None:
        """The task's number stands in its request, wherever a server puts that."""
        start = message.find(MARK) + len(MARK)
        self._on_task(int(message[start : message.index(b"#", start)]), at_ns)


class AipDevice(Device):
    """Speaks AIP, to the cluster and to the reference. With `answers` it ends the tasks that it is given."""

    PATH = "/ws"
    __slots__ = ("_answers",)

    def __init__(
        self, address: Address, client_id: str, on_task: Callable[[int, int], None], *, answers: bool = True
    ) -> None:
        super().__init__(address, self.PATH, client_id, on_task)
        self._answers = answers

    def on_open(self) -> None:
        info = {"device_id": self.client_id, "platform": "linux", "supported_features": ["autonomous"]}
        metadata = {"platform": "linux", "system_info": info}
        register = {"type": "register", "status": "ok", "client_id": self.client_id, "client_type": "device"}
        self.send(orjson.dumps(register | {"metadata": metadata}))

    def on_text(self, message: bytes) -> None:
        at_ns = time.perf_counter_ns()
        said = orjson.loads(message)
        if not self.registered.done():
            if said["type"] == "heartbeat" and said["status"] == "ok":
                self.registered.set_result(None)
            else:
                self.registered.set_exception(Refused(f"{self.client_id}: {said.get('error')}"))
        elif said["type"] == "task":
            self._note(message, at_ns)
            if self._answers:
                self.send(self._result(said))

    def _result(self, task: dict[str, str]) -> bytes:
        answer = {
            "type": "command_results",
            "status": "completed",
            "client_id": self.client_id,
            "client_type": "device",
            "session_id": task["session_id"],
            "task_name": task["task_name"],
            "prev_response_id": task["response_id"],
            "action_results": [{"status": "success", "result": "ok"}],
        }
        return orjson.dumps(answer)

    def heartbeat(self) -> None:
        self.send(HEARTBEAT)


class SocketIoDevice(Device):
    """Speaks Engine.IO 4 and Socket.IO 5 over a WebSocket alone; gives no answer."""

    PATH = "/socket.io/?EIO=4&transport=websocket"
    __slots__ = ()

    def __init__(self, address: Address, client_id: str, on_task: Callable[[int, int], None]) -> None:
        super().__init__(address, self.PATH, client_id, on_task)

    def on_text(self, message: bytes) -> None:
        at_ns = time.perf_counter_ns()
        if message.startswith(b"42"):
            orjson.loads(message[2:])
            self._note(message, at_ns)
        elif message == b"2":
            self.send(b"3")
        elif message.startswith(b"40") and not self.registered.done():
            self.registered.set_result(None)
        elif message.startswith(b"0"):
            self.send(b"40" + orjson.dumps({"client_id": self.client_id}))
        elif message.startswith(b"44"):
            self.on_end(Refused(message.decode()))


Maker = Callable[[Address, str, Callable[[int, int], None]], Device]


@dataclass
class Fleet:
    """Devices of one measurement, spread over `sockets` in turn. `arrivals` notes when each task came, by number."""

    sockets: Sequence[Address]
    make: Maker
    prefix: str = "device"
    devices: list[Device] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    arrivals: dict[int, int] = field(default_factory=dict)
    twice: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    on_task: Callable[[int], None] | None = None

    @property
    def alive(self) -> int:
        """How many sockets are open."""
        return sum(device.is_open for device in self.devices)

    def _arrived(self, number: int, at_ns: int) -> None:
        if number in self.arrivals:
            self.twice += 1
            return
        self.arrivals[number] = at_ns
        if self.on_task is not None:
            self.on_task(number)

    async def arrive(self, count: int, *, at_once: int) -> float:
        """Connect and register `count` more, so many at once; returns how many seconds it took.

        Raises BenchError if one is refused twice, or cannot connect.
        """
        gate = asyncio.Semaphore(at_once)
        first = len(self.devices)

        async def one(number: int) -> Device:
            async with gate:
                return await self._admitted(f"{self.prefix}-{number}", self.sockets[number % len(self.sockets)])

        start = time.perf_counter()
        try:
            self.devices += await asyncio.gather(*(one(number) for number in range(first, first + count)))
        except OSError as exc:
            raise BenchError(f"not every device could register: {exc!r}") from exc
        took_s = time.perf_counter() - start
        self.names = [device.client_id for device in self.devices]
        return took_s

    async def _admitted(self, client_id: str, address: Address) -> Device:
        while True:
            try:
                return await self._connected(self.make(address, client_id, self._arrived), address)
            except Refused as refused:
                self.refusals[client_id] = self.refusals.get(client_id, 0) + 1
                if self.refusals[client_id] > 1:
                    raise
                await asyncio.sleep(refused.retry_after_s)

    @staticmethod
    async def _connected(device: Device, address: Address) -> Device:
        async with asyncio.timeout(REGISTER_PATIENCE_S):
            await asyncio.get_running_loop().create_connection(lambda: device, address.host, address.port)
            await device.registered
        return device

    @contextlib.asynccontextmanager
    async def beating(self, every_s: float) -> AsyncIterator[None]:
        """Within the context each device says that it is alive every `every_s`, all spread evenly over that time."""
        task = asyncio.create_task(self._beat(every_s), name="heartbeats")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _beat(self, every_s: float) -> None:
        start, done = time.monotonic(), 0
        while True:
            await asyncio.sleep(BEAT_TICK_S)
            due = int((time.monotonic() - start) / every_s * len(self.devices))
            for number in range(done, due):
                self.devices[number % len(self.devices)].heartbeat()
            done = due

    async def leave(self) -> None:
        """Close every socket in order."""
        for first in range(0, len(self.devices), LEAVE_AT_ONCE):
            for device in self.devices[first : first + LEAVE_AT_ONCE]:
                device.close()
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        for device in self.devices:
            device.cut()
        self.devices.clear()
