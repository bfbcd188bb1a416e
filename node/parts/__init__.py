"""The parts of a node, wired room by room: each knows those that were made before it, none one that comes later.

`Ground`, then `SessionParts`, then `GatewayParts`, then `ApiParts`. Wiring does nothing but construct: no I/O, nothing
runs. What of it is started and closed, and when, is `node.app`'s to say.
"""

from node.parts.api import ApiParts
from node.parts.gateway import GatewayParts
from node.parts.ground import Ground
from node.parts.sessions import SessionParts

__all__ = ["ApiParts", "GatewayParts", "Ground", "SessionParts"]
