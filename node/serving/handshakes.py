"""The refusals of handshakes that are none, in JSON as all that a node refuses."""

import orjson
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

__all__ = ["Handshakes"]


class Handshakes(ServerProtocol):
    """websockets' parser, with an answer of ours where it takes no handshake."""

    def reject(self, status: StatusLike, text: str) -> Response:
        """The answer to a handshake that is none."""
        response = super().reject(status, orjson.dumps({"detail": text.strip()}).decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response
