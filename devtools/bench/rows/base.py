"""What a row of the table is: figures with their goals, measured in rounds in a laboratory that says how thoroughly."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from devtools.bench.stats import Spread, spread

__all__ = ["Figure", "Lab", "Row", "figure"]

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Lab:
    """How it is measured: `quick` shows only that it works. The processors are numbers of this machine's."""

    rounds: int
    quick: bool
    server_cpus: Sequence[int]

    @property
    def few_rounds(self) -> int:
        """For what hardly varies, and for what takes long: one round in three."""
        return max(1, self.rounds // 3)

    def scale(self, full: int, quick: int) -> int:
        """The size of something: `full`, or `quick`."""
        return quick if self.quick else full

    @staticmethod
    def settle() -> None:
        """What lives by now is looked at by no garbage collection of the measurement that follows."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()


@dataclass(frozen=True)
class Figure:
    """One line of the table. `beside` is what was measured with it, by name, in the same rounds."""

    key: str
    what: str
    unit: str
    value: Spread
    better: Better
    floor: float | None = None
    aim: float | None = None
    beside: dict[str, Spread] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it is written down."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Figure":
        """What `as_json` gave."""
        beside = {name: Spread(**values) for name, values in content["beside"].items()}
        return cls(**{**content, "value": Spread(**content["value"]), "beside": beside})


@dataclass(frozen=True)
class Row:
    """A row's figures, and everything that was measured for them, round by round. `how` says what was set and done.

    `when` its run began, and the `commit` that was measured: rows of several runs may stand in one report.
    """

    name: str
    figures: Sequence[Figure]
    details: dict[str, Any]
    how: str
    when: str = ""
    commit: str = ""


def figure(
    key: str,
    what: str,
    unit: str,
    values: Sequence[float],
    *,
    better: Better,
    floor: float | None = None,
    aim: float | None = None,
    beside: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """A figure from the values of its rounds."""
    others = {name: spread(theirs) for name, theirs in (beside or {}).items()}
    return Figure(key, what, unit, spread(values), better, floor, aim, others)
