"""The journal of a server-driven session: what its planner saw, as JSON, and back.

An entry `act` is a step before it is sent: the calls, what the planner said with them, the id they are sent under. An
entry `results` holds what came of it. Where the planner decides without waiting, the results are stored with the next
step: until then, the device that recognises the step answers it again. An entry may be there twice, where its call was
repeated: a step under the same id is the same step, and results count once. A result larger than any planner would look
at again is kept as its beginning: the journal stays small, whatever the device answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from aip_cluster.protocol import Command, Result
from node.sessions.planners import Act, Call, Tokens, Turn

__all__ = ["Restored", "act_entry", "restore", "results_entry"]

RESULT_BYTES = 262_144


@dataclass(slots=True)
class Restored:
    """How far a session got over earlier connections of its device.

    `act` is the step whose results are not known, sent under `response_id`.
    """

    turns: list[Turn] = field(default_factory=list)
    act: Act | None = None
    response_id: str = ""
    tokens: Tokens = field(default_factory=Tokens)


def act_entry(act: Act, response_id: str) -> dict[str, Any]:
    """The entry of a step that is about to be sent."""
    calls = [
        {
            "command": call.command.model_dump(mode="json", exclude_none=True),
            "agent_name": call.agent_name,
            "refused": call.refused,
        }
        for call in act.calls
    ]
    return {"act": {"response_id": response_id, "text": act.text, "calls": calls}}


def results_entry(results: Sequence[Result]) -> dict[str, Any]:
    """The entry of what came of the last step."""
    return {"results": [_bounded(r.model_dump(mode="json", exclude_none=True)) for r in results]}


def _bounded(result: dict[str, Any]) -> dict[str, Any]:
    raw = orjson.dumps(result.get("result"))
    if len(raw) <= RESULT_BYTES:
        return result
    beginning = raw[:RESULT_BYTES].decode("utf-8", "ignore")
    return {**result, "result": f"{beginning} ... (the first {RESULT_BYTES} of {len(raw)} bytes)"}


def restore(entries: Sequence[Mapping[str, Any]], tokens: Tokens) -> Restored:
    """How far the session got. Raises ValueError or KeyError for a journal that was not written here."""
    restored = Restored(tokens=tokens)
    for entry in entries:
        if "act" in entry:
            noted = entry["act"]
            calls = [
                Call(Command.model_validate(c["command"]), c.get("agent_name"), c.get("refused"))
                for c in noted["calls"]
            ]
            restored.act = Act(calls, noted["text"])
            restored.response_id = noted["response_id"]
        elif restored.act is not None:
            results = [Result.model_validate(r) for r in entry["results"]]
            restored.turns.append(Turn(restored.act.calls, results, restored.act.text))
            restored.act = None
    return restored
