"""The peers of one test: opened with a line, named uniquely, and gone when the test ends."""

from typing import TypeVar
from uuid import uuid4

from tests.integration.harness.cluster import Node
from tests.integration.harness.devices import AutonomousDevice, PayloadDevice
from tests.integration.harness.peers import Peer
from tests.integration.harness.ufo import UfoConstellation, UfoDevice, UfoPeer

__all__ = ["Guests", "unique"]

_P = TypeVar("_P", bound=UfoPeer)


def unique(what: str) -> str:
    """A name that no other test uses."""
    return f"{what}-{uuid4().hex[:10]}"


class Guests:
    """Opens sockets, registered unless said otherwise, and cuts all that are left at the end."""

    def __init__(self) -> None:
        self._all: list[Peer] = []

    async def socket(self, node: Node, client_id: str = "", *, headers: dict[str, str] | None = None) -> Peer:
        """A socket that has said nothing."""
        peer = Peer(node.ws_url, client_id, headers=headers)
        self._all.append(peer)
        await peer.connect()
        return peer

    async def device(
        self,
        node: Node,
        client_id: str | None = None,
        *,
        echoes: bool = True,
        answers: bool = True,
        platform: str = "linux",
        features: tuple[str, ...] | None = None,
    ) -> UfoDevice:
        """A UFO device."""
        return await self.register(
            UfoDevice(
                node.ws_url,
                client_id or unique("device"),
                echoes=echoes,
                answers=answers,
                platform=platform,
                features=features,
            )
        )

    async def autonomous(self, node: Node, client_id: str | None = None) -> AutonomousDevice:
        """A device that works on its own."""
        return await self.register(AutonomousDevice(node.ws_url, client_id or unique("worker")))

    async def payload(self, node: Node) -> PayloadDevice:
        """A device that speaks the documents' form."""
        return await self.register(PayloadDevice(node.ws_url, unique("payload")))

    async def constellation(
        self, node: Node, device_id: str | None = None, *, name: str | None = None
    ) -> UfoConstellation:
        """An orchestrator, for one device or for any."""
        return await self.register(UfoConstellation(node.ws_url, name or unique("galaxy"), device_id))

    async def register(self, peer: _P) -> _P:
        """Connect a peer and have it accepted."""
        self._all.append(peer)
        await peer.connect()
        await peer.register()
        return peer

    async def leave(self) -> None:
        """Cut what is left."""
        for peer in self._all:
            await peer.abort()
