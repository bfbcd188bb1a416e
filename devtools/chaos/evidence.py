"""What a run leaves behind for the invariants to judge: the ledger, and what was found when everything was quiet.

Plain records, so that a checker can be shown a violation without a cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from devtools.chaos.ledger import Ledger
from devtools.chaos.replication import LossWindow

__all__ = ["Complaint", "Disagreement", "Evidence", "KeyFinding", "Reading"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A session as one node tells it at the end; `state` is '' where the node knows none."""

    node: str
    session_id: str
    state: str
    digest: str
    error: str | None = None
    # The result as text: it must speak of the effects of this task and no other.
    text: str = ""


@dataclass(frozen=True, slots=True)
class KeyFinding:
    """A key in Redis that should not be so, and what is wrong with it; `session_id` if it is about one session."""

    key: str
    trouble: str
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Registry, leases and sockets do not say the same; `client` if it is about one."""

    text: str
    client: str = ""


@dataclass(frozen=True, slots=True)
class Complaint:
    """A line in a log that should not be there."""

    log: str
    line: str


@dataclass(slots=True)
class Evidence:
    """Everything about a run. Lists of troubles are empty when all is well."""

    ledger: Ledger
    grace_s: float
    # By task name: what every node says of every session of the task (and of the task by its name).
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    keys: Sequence[KeyFinding] = ()
    # Where registry, leases and the sockets that clients hold do not agree.
    disagreements: Sequence[Disagreement] = ()
    # Devices that did not carry out a task when everything was mended.
    unserved: Sequence[str] = ()
    complaints: Sequence[Complaint] = ()
    deserted: Sequence[str] = ()
    largest_memory: dict[str, int] = field(default_factory=dict)
    memory_bound: int = 0
    # Devices that do a command once, whatever they are sent twice.
    deduplicating: frozenset[str] = frozenset()
    loss_windows: Sequence[LossWindow] = ()
    # Faults of the run itself, which make its verdict worthless.
    broken: Sequence[str] = ()
