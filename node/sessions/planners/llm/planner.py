"""The planner that asks a model: one question a step, within a budget of steps, tokens and time."""

import importlib.util
from collections.abc import Sequence

from aip_cluster.protocol import Command
from node.sessions.planners.base import Act, Finish, PlannerRefused, Step, Task
from node.sessions.planners.llm.config import EndpointConfig, LlmConfig
from node.sessions.planners.llm.conversation import Functions, functions_of, messages
from node.sessions.planners.llm.endpoint import Answer, Endpoint, LlmError
from node.settings import Settings

__all__ = ["LlmPlanner"]


class LlmPlanner:
    """Needs `AIP_LLM_BASE_URL` and `AIP_LLM_MODEL`, or a file. Raises ValueError for settings that cannot work."""

    name = "llm"
    device_driven = False
    wants_tools = True

    def __init__(self, settings: Settings) -> None:
        self._config = LlmConfig(settings)
        self._endpoints: dict[EndpointConfig, Endpoint] = {}
        if self._config.configured and importlib.util.find_spec("openai") is None:
            raise ValueError("llm_base_url needs the extra 'llm': pip install 'aip-cluster-server[llm]'")

    def check(self, *, commands: Sequence[Command], features: frozenset[str]) -> None:  # noqa: ARG002
        """Needs an endpoint, and a task in words."""
        if commands:
            raise PlannerRefused("Planner 'llm' takes no commands: leave 'commands' out, or use planner 'direct'")
        if not self._config.configured:
            raise PlannerRefused("Planner 'llm' is not configured: set AIP_LLM_BASE_URL and AIP_LLM_MODEL")

    async def next(self, task: Task) -> Step:
        """Ask, and do as the answer says."""
        config = self._config.endpoint(task.agent_name)
        if config is None:
            return Finish(error="Planner 'llm' is not configured on the node that holds the device")
        spent = self._spent(task)
        if spent is not None:
            return Finish(error=spent)
        endpoint = self._endpoints.get(config)
        if endpoint is None:
            endpoint = self._endpoints[config] = Endpoint(config)
        functions = functions_of(task)
        try:
            answer = await endpoint.ask(messages(task, functions), functions.described())
        except LlmError as exc:
            return Finish(error=str(exc), asked=True)
        return _step(answer, functions, len(task.turns) + 1)

    def _spent(self, task: Task) -> str | None:
        """Why the task cannot go on, if it cannot."""
        if len(task.turns) >= self._config.max_steps:
            return f"The task was not done within {self._config.max_steps} steps"
        if task.tokens.total >= self._config.max_tokens:
            return f"The task was not done within {self._config.max_tokens} tokens"
        return None if task.tools else "The device offers no tools"

    async def close(self) -> None:
        """Close the connections to all endpoints."""
        for endpoint in self._endpoints.values():
            await endpoint.close()


def _step(answer: Answer, functions: Functions, number: int) -> Step:
    """What the answer means."""
    error = None
    if answer.refusal:
        error = f"The model refused: {answer.refusal[:1000]}"
    elif answer.calls:
        return Act(functions.calls(answer.calls, number), answer.text, answer.tokens)
    elif answer.finish_reason == "content_filter":
        error = "The model's answer was held back by a content filter"
    elif answer.finish_reason == "length":
        error = "The model's answer was cut off at its greatest length"
    elif not answer.text.strip():
        error = "The model answered with nothing"
    return Finish(result=None if error else answer.text, error=error, tokens=answer.tokens, asked=True)
