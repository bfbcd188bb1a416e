"""What the constellation client raises.

    ConstellationError
    ├── ConnectionLost             the socket could not be opened, broke, or was closed; the task may be running
    ├── RegistrationRefused        the server does not take this constellation
    │   └── DeviceNotConnected     … because the device is not connected anywhere in the cluster
    ├── TaskRefused                the server does not run this task
    ├── TaskTimeout                no word from the server in time; the task may be running
    ├── RequestFailed              a REST call or a request for device information was answered with an error
    └── PlanError                  a plan that cannot be run, with everything that is wrong with it

A task that ran and failed is no exception but a `TaskResult` with status `failed`; in a run of a plan it is a task
in the state `failed`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "ConnectionLost",
    "ConstellationError",
    "DeviceNotConnected",
    "PlanError",
    "Problem",
    "RegistrationRefused",
    "RequestFailed",
    "TaskRefused",
    "TaskTimeout",
]


class ConstellationError(Exception):
    """Base of everything that this package raises."""


class ConnectionLost(ConstellationError):
    """The socket could not be opened, broke, or was closed. A later call opens another."""


class RegistrationRefused(ConstellationError):
    """The server answered the registration with an error."""


class DeviceNotConnected(RegistrationRefused):
    """The target device is not connected to any node of the cluster."""


class TaskRefused(ConstellationError):
    """The server answered the task with an error."""


class TaskTimeout(ConstellationError, TimeoutError):
    """The server said nothing about the task in time. It may be running all the same."""


class RequestFailed(ConstellationError):
    """A request was answered with an error. `status_code` is that of HTTP, if it went over HTTP."""

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a plan: where, and what. `task` is None for what concerns the whole plan."""

    task: str | None
    field: str
    text: str

    def __str__(self) -> str:
        place = ", ".join(part for part in (f"task {self.task!r}" if self.task is not None else "", self.field) if part)
        return f"{place}: {self.text}" if place else self.text


class PlanError(ConstellationError):
    """A plan that cannot be run. `problems` lists everything that was found; nothing has been sent."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
