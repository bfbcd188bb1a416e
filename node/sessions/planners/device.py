"""`device`: the device works on its own; the node hands it the task and takes what comes back."""

from collections.abc import Sequence

from aip_cluster.protocol import Command
from node.sessions.planners.base import Finish, PlannerRefused, Step, Task

__all__ = ["AUTONOMOUS", "DevicePlanner"]

AUTONOMOUS = "autonomous"


class DevicePlanner:
    """For devices that list `autonomous` among their features."""

    name = "device"
    device_driven = True
    wants_tools = False

    def check(self, *, commands: Sequence[Command], features: frozenset[str]) -> None:
        """Needs an autonomous device, and a task in words."""
        if commands:
            raise PlannerRefused("Planner 'device' takes no commands: leave 'commands' out, or use planner 'direct'")
        if AUTONOMOUS not in features:
            raise PlannerRefused(
                "Planner 'device' needs a device that lists 'autonomous' in system_info.supported_features"
            )

    async def next(self, task: Task) -> Step:  # noqa: ARG002
        """Never called: the device decides."""
        return Finish(error="the device planner does not plan")

    async def close(self) -> None:
        """Nothing to give up."""
