"""A name server for one name, as a cluster's DNS answers for a headless Service: an address for each ready pod."""

import asyncio
import struct
from types import TracebackType
from typing import Self, cast

__all__ = ["NameServer"]

HEADER = struct.Struct("!HHHHHH")
ANSWERED = 0x8580
TYPE_A = 1
CLASS_IN = 1
TO_THE_QUESTION = 0xC00C


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address with `addresses`, all others with nothing. `port` is its own."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.port = 0
        self.asked = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A question: its header, its name, its type and its class."""
        if self._transport is None:
            return
        self.asked += 1
        number = HEADER.unpack_from(data)[0]
        end = data.index(b"\0", HEADER.size) + 5
        question = data[HEADER.size : end]
        kind = struct.unpack_from("!H", question, len(question) - 4)[0]
        addresses = self.addresses if kind == TYPE_A else []
        answers = b"".join(
            struct.pack("!HHHIH", TO_THE_QUESTION, TYPE_A, CLASS_IN, 0, 4) + bytes(map(int, address.split(".")))
            for address in addresses
        )
        self._transport.sendto(HEADER.pack(number, ANSWERED, 1, len(addresses), 0, 0) + question + answers, addr)
