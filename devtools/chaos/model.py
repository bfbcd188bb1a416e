"""A model that plans the longer sessions: it asks for one effect after the other.

What it says follows from the question alone, as with a model at temperature 0: the task's name in the user's message,
and how many tool outputs there are. So a session that another node takes over in its midst goes on where it was, if
that node was told everything that had happened; a step that it was not told of is asked for again, and seen.
"""

import re

import orjson

from devtools.chaos.ledger import Ledger, Task
from devtools.chaos.tasks import commands_of
from devtools.model_server import ModelServer, Question, Reply, Wanted

__all__ = ["Model"]

NAME = re.compile(r"carry out (chaos-[0-9]+-[0-9]+)")


class Model(ModelServer):
    """Knows the tasks of a ledger; a question about another task is answered at once, in words."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def next_answer(self, question: Question) -> Reply:
        task = self._task_of(question)
        done = len(question.outputs())
        if task is None or done >= len(task.effects):
            return Reply(text=f"done: {' '.join(task.effects if task else ())}")
        command = commands_of(task)[done]
        arguments = orjson.dumps(command["parameters"]).decode()
        return Reply(calls=(Wanted(command["tool_name"], arguments, f"call-{done}"),))

    def _task_of(self, question: Question) -> Task | None:
        for message in question.messages:
            if message["role"] == "user" and (found := NAME.search(str(message["content"]))):
                return self._ledger.tasks.get(found[1])
        return None
