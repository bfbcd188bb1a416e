"""Which faults, when, and on whom: drawn from the seed before the run begins, printed, and replayable.

Never more than the cluster promises to bear at once:

- one node at least is up, running and not draining at any time, the time in which another comes back included;
- Redis has one fault at a time, and time to recover from it, so that a quorum and an up-to-date replica are there
  before the next; a replica is never the target while its primary is being replaced;
- no two processes of the cluster die within `APART_S` of each other, since what is promised is the death of any
  *single* process. What merely cuts, freezes or slows may fall together with everything.

Devices and their sockets may break at any time: they are no part of the cluster.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import chain

from devtools.chaos.plan import Plan, RedisKind

__all__ = ["Fault", "FaultKind", "draw", "dump", "load"]

WARM_UP_S = 2.0
# The last fault is over this long before the load ends.
LAST_S = 2.0
APART_S = 2.0
MEAN_GAP_S = 1.3
NODE_START_S = 4.0
# Sentinel makes a replica of an old primary about ten seconds after it has replaced it.
REDIS_RECOVERY_S = 13.0


class FaultKind(StrEnum):
    """Everything that is done to a cluster and its clients."""

    NODE_KILL = "node-kill"
    NODE_DRAIN = "node-drain"
    NODE_FREEZE = "node-freeze"
    FRONT_RELOAD = "nginx-reload"
    FRONT_RESTART = "nginx-restart"
    REDIS_DEAF = "redis-kill-subscribers"
    REDIS_PAUSE = "redis-pause"
    REDIS_FREEZE = "redis-freeze"
    REDIS_RESTART = "redis-restart"
    REDIS_FAILOVER = "redis-failover"
    REDIS_KILL_PRIMARY = "redis-kill-primary"
    DEVICE_CUT = "device-cut"
    DEVICE_SILENT = "device-silent"
    DEVICE_RESTART = "device-restart"
    DEVICE_STOP = "device-stop"
    CONSTELLATION_CUT = "constellation-cut"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: begins `at_s` after the start and lasts `for_s` (0: at once over). `target` is a process's name."""

    at_s: float
    kind: FaultKind
    target: str
    for_s: float

    def __str__(self) -> str:
        lasting = f" for {self.for_s:.1f} s" if self.for_s else ""
        return f"{self.at_s:7.2f} s  {self.kind.value:<24}{self.target}{lasting}"


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a kind is drawn: how often, for how long, and how long its target needs afterwards."""

    weight: int
    shortest_s: float
    longest_s: float
    recovery_s: float
    # Ends a process of the cluster.
    hard: bool = False


_RECIPES: dict[FaultKind, _Recipe] = {
    FaultKind.NODE_KILL: _Recipe(3, 0.3, 3.0, NODE_START_S, hard=True),
    FaultKind.NODE_DRAIN: _Recipe(2, 0.3, 1.5, NODE_START_S + 8.0),
    FaultKind.NODE_FREEZE: _Recipe(3, 1.0, 10.0, 1.5),
    FaultKind.FRONT_RELOAD: _Recipe(1, 0.0, 0.0, 1.0),
    FaultKind.FRONT_RESTART: _Recipe(1, 0.2, 0.8, 1.0, hard=True),
    FaultKind.REDIS_DEAF: _Recipe(2, 0.0, 0.0, 1.5),
    FaultKind.REDIS_PAUSE: _Recipe(2, 1.0, 3.0, 1.5),
    FaultKind.REDIS_FREEZE: _Recipe(2, 1.0, 4.0, REDIS_RECOVERY_S, hard=True),
    FaultKind.REDIS_RESTART: _Recipe(1, 0.2, 1.0, REDIS_RECOVERY_S, hard=True),
    FaultKind.REDIS_FAILOVER: _Recipe(2, 0.0, 0.0, REDIS_RECOVERY_S, hard=True),
    FaultKind.REDIS_KILL_PRIMARY: _Recipe(2, 4.0, 6.0, REDIS_RECOVERY_S, hard=True),
    FaultKind.DEVICE_CUT: _Recipe(4, 0.0, 0.0, 0.0),
    FaultKind.DEVICE_SILENT: _Recipe(2, 0.0, 0.0, 0.0),
    FaultKind.DEVICE_RESTART: _Recipe(2, 0.2, 2.0, 2.0),
    FaultKind.DEVICE_STOP: _Recipe(1, 0.5, 3.0, 2.0),
    FaultKind.CONSTELLATION_CUT: _Recipe(2, 0.0, 0.0, 0.0),
}
_REPLICATED_ONLY = {FaultKind.REDIS_FAILOVER, FaultKind.REDIS_KILL_PRIMARY}
_NODE_KINDS = {FaultKind.NODE_KILL, FaultKind.NODE_DRAIN, FaultKind.NODE_FREEZE}
_DEVICE_KINDS = {FaultKind.DEVICE_CUT, FaultKind.DEVICE_SILENT, FaultKind.DEVICE_RESTART, FaultKind.DEVICE_STOP}


def draw(plan: Plan, constellations: Sequence[str]) -> list[Fault]:
    """The faults of a run, in order of time. The same plan gives the same faults."""
    rng = plan.generator("schedule")
    drawing = _Drawing(plan, constellations, rng)
    at_s = WARM_UP_S
    while at_s < plan.seconds - LAST_S:
        drawing.try_at(at_s)
        at_s += rng.expovariate(1 / MEAN_GAP_S)
    return drawing.faults


class _Drawing:
    """A schedule in the making: what is under way, and until when it is."""

    def __init__(self, plan: Plan, constellations: Sequence[str], rng: random.Random) -> None:
        self._plan = plan
        self._rng = rng
        self._targets = {
            **dict.fromkeys(_NODE_KINDS, plan.node_names()),
            **dict.fromkeys(_DEVICE_KINDS, plan.device_names()),
            FaultKind.CONSTELLATION_CUT: list(constellations),
        }
        self._deck: list[FaultKind] = []
        self._busy_until_s: dict[str, float] = {}
        self._hard_until_s = 0.0
        self.faults: list[Fault] = []

    def try_at(self, at_s: float) -> None:
        """Add a fault at `at_s`: the first of the deck that may happen then."""
        for kind in self._shuffled():
            recipe = _RECIPES[kind]
            for_s = round(self._rng.uniform(recipe.shortest_s, recipe.longest_s), 2)
            if at_s + for_s > self._plan.seconds - LAST_S or (recipe.hard and at_s < self._hard_until_s):
                continue
            target = self._target_of(kind, at_s)
            if target is None:
                continue
            self._deck.remove(kind)
            self._busy_until_s[self._domain(kind, target)] = at_s + for_s + recipe.recovery_s
            if recipe.hard:
                self._hard_until_s = at_s + for_s + APART_S
            self.faults.append(Fault(round(at_s, 2), kind, target, for_s))
            return

    def _shuffled(self) -> list[FaultKind]:
        """A deck, not a die: each kind comes in its turn, so that a long run sees all of them."""
        if len(self._deck) < len(_kinds_on(self._plan.redis)):
            deck = list(chain.from_iterable([kind] * _RECIPES[kind].weight for kind in _kinds_on(self._plan.redis)))
            self._rng.shuffle(deck)
            self._deck += deck
        return list(self._deck)

    def _target_of(self, kind: FaultKind, at_s: float) -> str | None:
        targets = self._targets.get(kind, [self._domain(kind, "")])
        free = [t for t in targets if self._busy_until_s.get(self._domain(kind, t), 0.0) <= at_s]
        if not free or (kind in _NODE_KINDS and len(free) < 2):
            return None  # of the nodes one must be left
        return self._rng.choice(free)

    @staticmethod
    def _domain(kind: FaultKind, target: str) -> str:
        """What has one fault at a time: a node, a device, all of Redis, nginx."""
        return target if kind in _NODE_KINDS | _DEVICE_KINDS | {FaultKind.CONSTELLATION_CUT} else kind.partition("-")[0]


def _kinds_on(redis: RedisKind) -> list[FaultKind]:
    return [kind for kind in FaultKind if redis != "single" or kind not in _REPLICATED_ONLY]


def dump(faults: Sequence[Fault]) -> str:
    """The schedule as JSON, for `--schedule`."""
    return json.dumps([asdict(fault) for fault in faults], indent=1)


def load(text: str) -> list[Fault]:
    """What `dump` wrote. Raises ValueError for anything else."""
    try:
        faults = [
            Fault(float(item["at_s"]), FaultKind(item["kind"]), str(item["target"]), float(item["for_s"]))
            for item in json.loads(text)
        ]
    except (KeyError, TypeError) as exc:
        raise ValueError(f"this is no schedule of chaos: {exc!r}") from None
    return sorted(faults, key=lambda fault: fault.at_s)
