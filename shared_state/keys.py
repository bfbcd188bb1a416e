"""Every key and every channel of the cluster, spelled here and nowhere else.

All keys that one script touches share the tag in braces, so that they live in one slot of a Redis Cluster. (But where
there are no slots, the start of a session claims the name of its task, too: a round trip less on the way of each task;
and sessions of many devices are ended together.) Ids hold no braces (`aip_cluster.protocol.ids` refuses them), so an id
cannot move a key to another slot or imitate another key.

A client's tag is one of 4,096, by a hash of its id. Ids of sessions that the cluster makes end with the tag of their
client (`new_session_id`), so that a session lives beside its client's inbox: one script begins it, another ends it. An
id that an orchestrator chose lives wherever its own tag says: its last three characters if it has the form of a UUID,
all of it otherwise.

| key | type | holds | lives |
|---|---|---|---|
| `aip:{nodes}:leases` | zset | node id → lease end, ms | a day after the last renewal |
| `aip:{nodes}:node:<id>` | string | node's address, version, counts (JSON) | as long as the lease |
| `aip:{nodes}:reaper` | string | node that settles dead nodes now | seconds |
| `aip:{node:<id>}:clients` | hash | client id → last sign of life, ms | a day after the last change |
| `aip:client:{<tag>}:<id>` | hash | registration | 15 min after the last touch; while away, a little longer than that |
| `aip:inbox:{<tag>}:<id>` | stream | messages not handed to the socket yet | an hour, or as long as one may wait |
| `aip:active:{<tag>}:<id>` | zset | session id → deadline, ms; '' → `NEVER_MS` | the longest deadline, plus a day |
| `aip:asked:{<tag>}:<id>` | zset | session that it asked for → deadline, ms | the longest deadline, plus a minute |
| `aip:waiting:{<tag>}:<id>` | zset | tasks that wait for it → when the record is gone, ms | as the records |
| `aip:waiting-bytes:{<tag>}:<id>` | hash | of each the bytes, and their sums | as the records |
| `aip:{waiting}:ends`, `aip:{waiting}:bytes` | zset, hash | the same of all clients | as the records |
| `aip:{stored}:ends`, `aip:{stored}:bytes` | zset, hash | the same of files, by transfer id | as the files |
| `aip:posted:{<tag>}:<length of id>:<id>:<message>` | string | mark of a message that may be posted again | a minute |
| `aip:newest:{<tag>}:<id>` | list | its newest sessions: ids, and where clients chose them, places | as results |
| `aip:task:{<name>}` | string | the session that has the name, and its claim if that came first | as the session |
| `aip:session:{<tag>}:<id>` | hash | the session | its deadline, then the retention of results |
| `aip:steps:{<tag>}:<id>` | list | what happened in it until its end: number, time, event (JSON) | as the session |
| `aip:journal:{<tag>}:<id>` | list | its steps in full, for whoever takes it over | until it ends |
| `aip:files:{<tag>}:<id>` | hash | file name → what is known of it (JSON) | as results |
| `aip:chunk:{<tag>}:<n>:<its length>:<transfer>:<id>` | string | a piece of a file | an hour, then as results |
| `aip:due` | zset | `client:<id>`, `session:<id>` or `end:<id>` → when to look at it, ms | a day after the last |
| `aip:batch:{<id>}` | hash | a batch and its items | its longest deadline, then as results |
| `aip:idempotency:{<name>}` | hash | a request under a key: attempt, answer | `idempotency_ttl_s` |
| `aip:sessions` | zset | the cluster's newest sessions, in order of time | as results |
| `aip:events` | stream | the cluster's newest events, many an entry | a day after the last one |

The member '' of a device's active sessions is none: it keeps the set from being dropped and made, and given its life,
with every single task. Its score is a whole number, which Redis keeps as one (an infinity is text, read at each look).
"""

from functools import lru_cache
from zlib import crc32

from aip_cluster.protocol import new_id

__all__ = ["NEVER_MS", "TAG_CHARS", "Keys", "keys_of_session", "live_together", "new_session_id", "tag_of_session"]

TAG_CHARS = 3
# Later than any deadline: the largest whole number that a score holds.
NEVER_MS = 2**53 - 1
UUID_CHARS = 36


@lru_cache(maxsize=32_768)
def _of_client(client_id: str) -> str:
    return f"{crc32(client_id.encode()) & 0xFFF:03x}"


def tag_of_session(session_id: str) -> str:
    """What stands in braces in the keys of a session."""
    is_uuid = len(session_id) == UUID_CHARS and session_id[8:24:5] == "----"
    return session_id[-TAG_CHARS:] if is_uuid else session_id


def new_session_id(client_id: str) -> str:
    """The id of a new session on `client_id`: a UUIDv7 with 50 random bits that lives beside the client."""
    return new_id()[:-TAG_CHARS] + _of_client(client_id)


def live_together(session_id: str, client_id: str) -> bool:
    """Whether one script may touch the keys of both."""
    return tag_of_session(session_id) == _of_client(client_id)


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
        return f"{self.prefix}:client:{{{_of_client(client_id)}}}:{client_id}"

    def inbox(self, client_id: str) -> str:
        return f"{self.prefix}:inbox:{{{_of_client(client_id)}}}:{client_id}"

    def active(self, client_id: str) -> str:
        return f"{self.prefix}:active:{{{_of_client(client_id)}}}:{client_id}"

    def asked(self, client_id: str) -> str:
        return f"{self.prefix}:asked:{{{_of_client(client_id)}}}:{client_id}"

    def posted(self, client_id: str, message_id: str) -> str:
        return f"{self.prefix}:posted:{{{_of_client(client_id)}}}:{len(client_id)}:{client_id}:{message_id}"

    def waiting(self, client_id: str) -> str:
        return f"{self.prefix}:waiting:{{{_of_client(client_id)}}}:{client_id}"

    def waiting_bytes(self, client_id: str) -> str:
        return f"{self.prefix}:waiting-bytes:{{{_of_client(client_id)}}}:{client_id}"

    def waiting_anywhere(self) -> str:
        return f"{self.prefix}:{{waiting}}:ends"

    def waiting_bytes_anywhere(self) -> str:
        return f"{self.prefix}:{{waiting}}:bytes"

    def files_anywhere(self) -> str:
        return f"{self.prefix}:{{stored}}:ends"

    def file_bytes_anywhere(self) -> str:
        return f"{self.prefix}:{{stored}}:bytes"

    def client_sessions(self, client_id: str) -> str:
        return f"{self.prefix}:newest:{{{_of_client(client_id)}}}:{client_id}"

    # -- sessions ------------------------------------------------------------------------------------------------
    def task(self, task_name: str) -> str:
        return f"{self.prefix}:task:{{{task_name}}}"

    def session(self, session_id: str) -> str:
        return f"{self.prefix}:session:{{{tag_of_session(session_id)}}}:{session_id}"

    def session_events(self, session_id: str) -> str:
        return f"{self.prefix}:steps:{{{tag_of_session(session_id)}}}:{session_id}"

    def session_journal(self, session_id: str) -> str:
        return f"{self.prefix}:journal:{{{tag_of_session(session_id)}}}:{session_id}"

    def session_files(self, session_id: str) -> str:
        return f"{self.prefix}:files:{{{tag_of_session(session_id)}}}:{session_id}"

    def session_chunk(self, session_id: str, transfer_id: str, number: int) -> str:
        tag = tag_of_session(session_id)
        return f"{self.prefix}:chunk:{{{tag}}}:{number}:{len(transfer_id)}:{transfer_id}:{session_id}"

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


def keys_of_session(keys: Keys, session_id: str) -> list[str]:
    """What every step of a session touches: `session`, `session_events`, `session_journal`, made together."""
    prefix, rest = keys.prefix, f":{{{tag_of_session(session_id)}}}:{session_id}"
    return [f"{prefix}:session{rest}", f"{prefix}:steps{rest}", f"{prefix}:journal{rest}"]
