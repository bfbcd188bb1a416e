"""`llm`: a model behind an OpenAI-compatible endpoint plans, with the device's tools as its functions."""

from node.sessions.planners.llm.planner import LlmPlanner

__all__ = ["LlmPlanner"]
