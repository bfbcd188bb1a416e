"""Every key and every channel of the cluster, spelled here and nowhere else.

All keys that one script touches share the tag in braces, so that they live in one slot of a Redis Cluster. Ids hold
no braces (`aip.ids` refuses them), so an id cannot move a key to another slot or imitate another key.

| key | type | holds | lives |
|---|---|---|---|
| `aip:{nodes}:leases` | zset | node id → lease end, ms | a day after the last renewal |
| `aip:{nodes}:node:<id>` | string | node's address, version, counts (JSON) | as long as the lease |
| `aip:{nodes}:reaper` | string | node that settles dead nodes now | seconds |
| `aip:{node:<id>}:clients` | hash | client id → last sign of life, ms | a day after the last change |
| `aip:client:{<id>}` | hash | registration | 15 min after the last touch; while away, a little longer than that |
| `aip:client:{<id>}:inbox` | stream | messages not handed to the socket yet | an hour, or as long as one may wait |
| `aip:client:{<id>}:active` | zset | session id → deadline, ms | as the longest deadline, plus a day |
| `aip:client:{<id>}:posted:<message>` | string | mark of a message that may be posted again | a minute |
| `aip:client:{<id>}:sessions` | zset | its newest sessions, in order of time | as results |
| `aip:task:{<name>}` | hash | session id, and since when | as the session |
| `aip:session:{<id>}` | hash | the session | its deadline, then the retention of results |
| `aip:session:{<id>}:events` | stream | what happened in it | as the session |
| `aip:session:{<id>}:journal` | list | its steps in full, for whoever takes it over | until it ends |
| `aip:session:{<id>}:files` | hash | file name → what is known of it (JSON) | as results |
| `aip:session:{<id>}:chunk:<transfer>:<n>` | string | a piece of a file | an hour while it arrives, then as results |
| `aip:due` | zset | `client:<id>`, `session:<id>` or `end:<id>` → when to look at it, ms | a day after the last |
| `aip:batch:{<id>}` | hash | a batch and its items | its longest deadline, then as results |
| `aip:idempotency:{<name>}` | hash | a request under a key: attempt, answer | `idempotency_ttl_s` |
| `aip:sessions` | zset | the cluster's newest sessions, in order of time | as results |
| `aip:events` | stream | the cluster's newest events | a day after the last one |
"""

__all__ = ["Keys"]


class Keys:
    """Builders of keys and channels under one prefix (`aip` unless several clusters share a Redis)."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str = "aip") -> None:
        if not prefix or any(c in prefix for c in "{}* \n"):
            raise ValueError("the key prefix must not be empty and holds no braces, stars or white space")
        self.prefix = prefix

    # -- nodes ---------------------------------------------------------------------------------------------------
    def leases(self) -> str:
        return f"{self.prefix}:{{nodes}}:leases"

    def node_info(self, node_id: str) -> str:
        return f"{self.prefix}:{{nodes}}:node:{node_id}"

    def reaper(self) -> str:
        return f"{self.prefix}:{{nodes}}:reaper"

    def node_clients(self, node_id: str) -> str:
        return f"{self.prefix}:{{node:{node_id}}}:clients"

    # -- clients -------------------------------------------------------------------------------------------------
    def registration(self, client_id: str) -> str:
        return f"{self.prefix}:client:{{{client_id}}}"

    def inbox(self, client_id: str) -> str:
        return f"{self.prefix}:client:{{{client_id}}}:inbox"

    def active(self, client_id: str) -> str:
        return f"{self.prefix}:client:{{{client_id}}}:active"

    def posted(self, client_id: str, message_id: str) -> str:
        return f"{self.prefix}:client:{{{client_id}}}:posted:{message_id}"

    def client_sessions(self, client_id: str) -> str:
        return f"{self.prefix}:client:{{{client_id}}}:sessions"

    # -- sessions ------------------------------------------------------------------------------------------------
    def task(self, task_name: str) -> str:
        return f"{self.prefix}:task:{{{task_name}}}"

    def session(self, session_id: str) -> str:
        return f"{self.prefix}:session:{{{session_id}}}"

    def session_events(self, session_id: str) -> str:
        return f"{self.prefix}:session:{{{session_id}}}:events"

    def session_journal(self, session_id: str) -> str:
        return f"{self.prefix}:session:{{{session_id}}}:journal"

    def session_files(self, session_id: str) -> str:
        return f"{self.prefix}:session:{{{session_id}}}:files"

    def session_chunk(self, session_id: str, transfer_id: str, number: int) -> str:
        return f"{self.prefix}:session:{{{session_id}}}:chunk:{transfer_id}:{number}"

    def batch(self, batch_id: str) -> str:
        return f"{self.prefix}:batch:{{{batch_id}}}"

    def due(self) -> str:
        return f"{self.prefix}:due"

    def idempotency(self, name: str) -> str:
        return f"{self.prefix}:idempotency:{{{name}}}"

    def sessions(self) -> str:
        return f"{self.prefix}:sessions"

    # -- events and the bus --------------------------------------------------------------------------------------
    def events(self) -> str:
        return f"{self.prefix}:events"

    def channel(self, node_id: str) -> str:
        """The channel that `node_id` listens on."""
        return f"{self.channel_prefix()}{node_id}"

    def channel_prefix(self) -> str:
        """What scripts put before a node id that they read, to reach its channel."""
        return f"{self.prefix}:node:"
