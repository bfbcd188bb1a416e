"""What is said on the wire: the messages of the Agent Interaction Protocol, their codec and its errors.

Nothing here does I/O and nothing here imports another room of the project.
"""

from aip_cluster.protocol.codec import decode_client, decode_server, encode
from aip_cluster.protocol.errors import ProtocolError
from aip_cluster.protocol.ids import new_id, utc_now
from aip_cluster.protocol.messages import (
    ClientMessage,
    ClientMessageType,
    ClientType,
    Command,
    Result,
    ResultStatus,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
)

__all__ = [
    "ClientMessage",
    "ClientMessageType",
    "ClientType",
    "Command",
    "ProtocolError",
    "Result",
    "ResultStatus",
    "ServerMessage",
    "ServerMessageType",
    "TaskStatus",
    "decode_client",
    "decode_server",
    "encode",
    "new_id",
    "utc_now",
]
