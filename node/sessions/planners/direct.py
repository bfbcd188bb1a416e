"""`direct`: the commands came with the dispatch; send them, and end with their results."""

from collections.abc import Sequence

from aip_cluster.protocol import Command, ResultStatus
from node.sessions.planners.base import Act, Call, Finish, PlannerRefused, Step, Task

__all__ = ["DirectPlanner"]


class DirectPlanner:
    """All commands in one message; the result is the list of their Results."""

    name = "direct"
    device_driven = False
    wants_tools = False

    def check(self, *, commands: Sequence[Command], features: frozenset[str]) -> None:  # noqa: ARG002
        """Needs commands."""
        if not commands:
            raise PlannerRefused("Planner 'direct' needs at least one command: give 'commands'")

    async def next(self, task: Task) -> Step:
        """Send everything first; then judge."""
        if not task.turns:
            return Act([Call(c) for c in task.commands])
        results = task.turns[-1].results
        listed = [r.model_dump(exclude_none=True) for r in results]
        failed = next((i for i, r in enumerate(results) if r.status is ResultStatus.FAILURE), None)
        if failed is not None:
            what = task.commands[failed].tool_name if failed < len(task.commands) else "command"
            return Finish(result=listed, error=f"{what}: {results[failed].error or 'failed without a reason'}")
        return Finish(result=listed)

    async def close(self) -> None:
        """Nothing to give up."""
