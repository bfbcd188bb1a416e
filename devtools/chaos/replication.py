"""What a failover of Redis may have lost: measured from the servers' own words, not assumed.

Redis replicates asynchronously. A write that a primary acknowledged may be gone if its replica took over before it
had arrived, or if that primary went on answering after its replica had taken over. Every server is asked for its role
and its offset twenty times a second; from the answers come the largest lag that was seen, and for each promotion the
`LossWindow`s: the lag before the old primary's last word, and the time after the promotion in which the old one still
called itself a primary, up to the `FOLLOW_S` within which a node must have followed the new one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devtools.topologies import Server

__all__ = ["FOLLOW_S", "Answer", "LossWindow", "ReplicationLog", "ReplicationWatch"]

EVERY_S = 0.05
TIMEOUT_S = 0.5
# Answers further apart than this do not belong together: the server was frozen, or dead.
TOGETHER_S = 0.6
OFFSETS_KEPT = 2_000
# Sentinels spread the word of a promotion within a second or so, and nodes ask them twice a second.
FOLLOW_S = 2.0


@dataclass(frozen=True, slots=True)
class LossWindow:
    """From when to when an acknowledged write may have been lost, seconds since the run began; and why."""

    from_s: float
    to_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server said of itself: `leader` is whom it follows, '' for a primary."""

    at_s: float
    leader: str
    offset: int


@dataclass(slots=True)
class _Reign:
    """A time in which a server called itself a primary."""

    from_s: float
    to_s: float


class _Promotion(NamedTuple):
    """`name` took over from `old`, at some time between its last answer as a replica and its first as a primary."""

    name: str
    old: str
    followed_s: float
    promoted_s: float


@dataclass(slots=True)
class ReplicationLog:
    """Takes the answers of all servers, in order of time. `one_leader`: there is one rightful primary at a time."""

    one_leader: bool = True
    largest_lag_s: float = 0.0
    _last: dict[str, Answer] = field(default_factory=dict)
    _silent_s: dict[str, float] = field(default_factory=dict)
    _offsets: dict[str, deque[Answer]] = field(default_factory=dict)
    _reigns: dict[str, list[_Reign]] = field(default_factory=dict)
    _promotions: list[_Promotion] = field(default_factory=list)

    def silent(self, name: str, at_s: float) -> None:
        """The server `name` was asked, and had not answered by then."""
        self._silent_s[name] = at_s

    def take(self, name: str, answer: Answer) -> None:
        """An answer of the server `name`."""
        before = self._last.get(name)
        self._last[name] = answer
        if answer.leader:
            self._offsets.pop(name, None)
            self._measure_lag(answer)
            return
        offsets = self._offsets.setdefault(name, deque(maxlen=OFFSETS_KEPT))
        reigns = self._reigns.setdefault(name, [])
        goes_on = before is not None and not before.leader and answer.at_s - before.at_s <= TOGETHER_S
        if offsets and answer.offset < offsets[-1].offset:
            offsets.clear()  # it was restarted, and counts anew
        if reigns and goes_on:
            reigns[-1].to_s = answer.at_s
        else:
            offsets.clear()
            # Others may have been answered a moment before: since it was last found to be silent.
            reigns.append(_Reign(self._silent_s.get(name, answer.at_s - EVERY_S), answer.at_s))
        offsets.append(answer)
        if before is not None and before.leader:
            self._promotions.append(_Promotion(name, before.leader, before.at_s, answer.at_s))

    def _measure_lag(self, replica: Answer) -> None:
        """How long ago its primary was where the replica is now."""
        ahead = next((a for a in self._offsets.get(replica.leader, ()) if a.offset > replica.offset), None)
        if ahead is not None:
            self.largest_lag_s = max(self.largest_lag_s, replica.at_s - ahead.at_s)

    def loss_windows(self) -> list[LossWindow]:
        """The windows of all promotions so far, widened by the lag and by how often the servers are asked."""
        # A lag that grew while nobody led is the failover itself, not what replication takes.
        before_s, after_s = min(self.largest_lag_s, 1.0) + 2 * EVERY_S, 2 * EVERY_S
        windows = []
        for name, old, followed_s, promoted_s in self._promotions:
            reigns = self._reigns.get(old, [])
            last_word_s = max((min(r.to_s, followed_s) for r in reigns if r.from_s <= followed_s), default=followed_s)
            windows.append(LossWindow(last_word_s - before_s, promoted_s + after_s, f"{name} took over from {old}"))
            windows += [
                LossWindow(
                    max(r.from_s, followed_s), min(r.to_s, promoted_s + FOLLOW_S) + after_s, f"{old} took writes still"
                )
                for r in reigns
                if r.to_s > promoted_s and r.from_s < promoted_s + FOLLOW_S and not self._led_again(old, promoted_s, r)
            ]
            if self.one_leader:
                windows += self._passed_over(name, old, promoted_s)
        return windows

    def _passed_over(self, name: str, old: str, promoted_s: float) -> list[LossWindow]:
        """A third server led just then, and nobody followed it: all that it took is gone."""
        return [
            LossWindow(r.from_s, min(r.to_s, promoted_s + FOLLOW_S) + 2 * EVERY_S, f"{third} was passed over")
            for third, reigns in self._reigns.items()
            for r in reigns
            if third not in {name, old} and r.from_s <= promoted_s <= r.to_s
        ]

    def _led_again(self, name: str, after_s: float, reign: _Reign) -> bool:
        """Whether a reign is one to which the server was promoted later: then it is rightful."""
        return any(p.name == name and after_s < p.promoted_s <= reign.to_s for p in self._promotions)


class ReplicationWatch:
    """Asks every server, in a thread of its own: a frozen one must not hold up the run. `clock` gives run seconds."""

    def __init__(self, servers: Sequence[Server], clock: Callable[[], float], *, one_leader: bool) -> None:
        self._servers = servers
        self._clock = clock
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(server,), name=f"watch {server.name}", daemon=True)
            for server in servers
        ]
        self._lock = threading.Lock()
        self.log = ReplicationLog(one_leader=one_leader)

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Watch no more. May be called again."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5.0)

    def _watch(self, server: Server) -> None:
        client = redis.Redis(
            port=server.port,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        while not self._stop.is_set():
            try:
                info: Any = client.info("replication")
            except redis.exceptions.RedisError:
                client.close()
                with self._lock:
                    self.log.silent(server.name, self._clock())
            else:
                self._take(server, info)
            time.sleep(EVERY_S)
        client.close()

    def _take(self, server: Server, info: dict[str, Any]) -> None:
        following = info["role"] == "slave"
        if following and info.get("master_link_status") != "up":
            return  # it has no stream to lag behind
        port = int(info.get("master_port", 0)) if following else 0
        leader = next((s.name for s in self._servers if s.port == port), "unknown") if following else ""
        offset = int(info["slave_repl_offset"] if following else info["master_repl_offset"])
        with self._lock:
            self.log.take(server.name, Answer(self._clock(), leader, offset))
