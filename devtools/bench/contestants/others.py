"""The contestants that are not ours, as processes: each program stands in a module of its own beside this one."""

from collections.abc import Callable, Sequence

from devtools.bench.connections import Address
from devtools.bench.contestants.base import Contestant, Program, uvicorn
from devtools.bench.fleet import AipDevice, Device, Maker, SocketIoDevice

__all__ = ["ECHO", "REFERENCE", "SOCKETIO"]

_PACKAGE = "devtools.bench.contestants"


class _Uvicorn(Contestant):
    def __init__(self, name: str, module: str, device: Maker, *, nodes: int = 2, delivers: bool = True) -> None:
        super().__init__(name, device, nodes=nodes, delivers=delivers)
        self._app = f"{_PACKAGE}.{module}:app"

    def programs(self, redis_url: str, ports: Sequence[int]) -> list[Program]:
        return [uvicorn(f"{'ab'[i]}", self._app, port, redis_url) for i, port in enumerate(ports)]


def _silent(address: Address, client_id: str, on_task: Callable[[int, int], None]) -> Device:
    """A device that gives no answer: the reference would not know what to do with it."""
    return AipDevice(address, client_id, on_task, answers=False)


REFERENCE: Contestant = _Uvicorn("reference", "reference", _silent)
SOCKETIO: Contestant = _Uvicorn("python-socketio", "socketio_node", SocketIoDevice)
ECHO: Contestant = _Uvicorn("bare Starlette", "echo", _silent, nodes=1, delivers=False)
