"""What a run of chaos is: how long, from which seed, on what cluster, and the times that follow from it.

Everything random in a run comes from `seed` through `generator`, a stream of its own for each use: what one part
draws does not move what another part draws.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Plan", "RedisKind"]

RedisKind = Literal["single", "sentinel", "cluster"]

# A client that is away longer than this loses its sessions; short, so that a run sees both sides of it.
GRACE_S = 8.0
# Node death is noticed within the lease, and settled a moment later.
LEASE_TTL_S = 4.5


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, as asked for. `seconds` is the time of faults and load; settling comes after it."""

    seconds: float
    seed: int
    nodes: int
    devices: int
    redis: RedisKind
    run_dir: Path
    dispatches_per_s: float = 15.0
    # How many replicas must have a dispatch before it is answered.
    min_replicas: int = 0

    @property
    def grace_s(self) -> float:
        """`reconnect_grace_s` of the nodes."""
        return GRACE_S

    @property
    def task_timeouts_s(self) -> tuple[float, float]:
        """Shortest and longest deadline of an ordinary task."""
        return 12.0, 20.0

    @property
    def settle_s(self) -> float:
        """When everything must have ended after the last fault: the longest deadline, grace and lease behind it."""
        return self.task_timeouts_s[1] + self.grace_s + LEASE_TTL_S + 10.0

    @property
    def real_devices(self) -> int:
        """How many are `aip-device` processes: one in six, at least one."""
        return max(1, self.devices // 6)

    @property
    def ufo_devices(self) -> int:
        """How many speak as UFO's client does: one in six, at least one."""
        return max(1, self.devices // 6)

    def generator(self, use: str) -> random.Random:
        """The random numbers of one part of the run."""
        return random.Random(f"{self.seed}/{use}")  # noqa: S311 - to be repeatable, not secret

    def device_names(self) -> list[str]:
        """All devices: real ones first, then UFO's, then light ones."""
        light = self.devices - self.real_devices - self.ufo_devices
        return (
            [f"real-{i}" for i in range(1, self.real_devices + 1)]
            + [f"ufo-{i}" for i in range(1, self.ufo_devices + 1)]
            + [f"light-{i}" for i in range(1, light + 1)]
        )

    def node_names(self) -> list[str]:
        """All nodes."""
        return [f"node-{i}" for i in range(1, self.nodes + 1)]
