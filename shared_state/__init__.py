"""Everything the cluster knows, kept in Redis: nodes, clients, sessions, inboxes, events, and the bus between nodes.

Each module owns one noun and its keys. Only `keys` spells a key or a channel, only `connection` and what it is made of
(`lanes`, `routes`) talk to redis-py.
`State` puts the parts together for a node.
"""

from shared_state.state import State

__all__ = ["State"]
