"""A model that plans the longer sessions: an OpenAI-compatible endpoint that asks for one effect after the other.

What it says follows from the question alone, as with a model at temperature 0: the task's name in the user's message,
and how many tool outputs there are. So a session that another node takes over in its midst goes on where it was, if
that node was told everything that had happened; a step that it was not told of is asked for again, and seen.
"""

import asyncio
import re
from typing import Any

import orjson

from devtools.chaos.ledger import Ledger, Task
from devtools.chaos.tasks import commands_of

__all__ = ["Model"]

NAME = re.compile(r"carry out (chaos-[0-9]+-[0-9]+)")
MODEL = "scripted"


class Model:
    """Listens on a port of its own, once `open`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._server: asyncio.Server | None = None
        self.url = ""

    async def open(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def close(self) -> None:
        """Answer no more. May be called again."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: *([0-9]+)", head)
            question = orjson.loads(await reader.readexactly(int(length[1]) if length else 0))
            answer = orjson.dumps(self._answer(question))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(answer), answer))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # a node that was killed in the midst of its question
        finally:
            writer.close()

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        messages: list[dict[str, Any]] = question["messages"]
        task = self._task_of(messages)
        done = sum(message["role"] == "tool" for message in messages)
        if task is None or done >= len(task.effects):
            effects = task.effects if task else ()
            return _completion({"role": "assistant", "content": f"done: {' '.join(effects)}"}, "stop")
        command = commands_of(task)[done]
        call = {
            "id": f"call-{done}",
            "type": "function",
            "function": {
                "name": command["tool_name"],
                "arguments": orjson.dumps(command["parameters"]).decode(),
            },
        }
        return _completion({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")

    def _task_of(self, messages: list[dict[str, Any]]) -> Task | None:
        for message in messages:
            if message["role"] == "user" and (found := NAME.search(str(message["content"]))):
                return self._ledger.tasks.get(found[1])
        return None


def _completion(message: dict[str, Any], why: str) -> dict[str, Any]:
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": why, "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
