"""A scripted model: an OpenAI-compatible endpoint on the loopback interface, for tests, chaos and dashboards.

One server for plain and for streamed questions: the question says which it wants. Every question is kept as it came,
with its headers. A script that has run out answers with status 400, which no client repeats.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from devtools.local_server import LocalServer

__all__ = [
    "Broken",
    "ModelServer",
    "Question",
    "Raw",
    "Reply",
    "Scripted",
    "Wanted",
    "call",
    "fails",
    "raw_call",
    "say",
    "too_many",
]

Json = dict[str, Any]
MODEL = "scripted-1"
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A function that the model wants called; `arguments` is sent as it is, JSON or not."""

    name: str
    arguments: str
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model. `usage` None leaves it out; `has_choice` false sends an empty list of choices."""

    text: str | None = None
    calls: tuple[Wanted, ...] = ()
    refusal: str | None = None
    finish_reason: str | None = None
    usage: Json | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10})
    has_choice: bool = True
    # Awaited before anything is sent.
    gate: Callable[[], Awaitable[object]] | None = None

    @property
    def finish(self) -> str:
        """Why the model stopped."""
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    def after(self, gate: Callable[[], Awaitable[object]]) -> "Reply":
        """The same answer, held back until `gate()` is done."""
        return replace(self, gate=gate)


@dataclass(frozen=True, slots=True)
class Raw:
    """Any body with any status."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Broken:
    """An answer that breaks off: the connection is cut in the middle, or (`politely`) the stream just ends early."""

    text: str = "The answer is"
    politely: bool = False


Scripted = Reply | Raw | Broken


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it came."""

    path: str
    headers: dict[str, str]
    body: Json

    @property
    def messages(self) -> list[Json]:
        """The conversation."""
        listed: list[Json] = self.body["messages"]
        return listed

    def tool_names(self) -> list[str]:
        """The functions that were offered."""
        return [tool["function"]["name"] for tool in self.body.get("tools", [])]

    def outputs(self) -> list[str]:
        """What tools gave so far, as the model reads it."""
        return [m["content"] for m in self.messages if m["role"] == "tool"]


def say(text: str, **fields: Any) -> Reply:
    """An answer in words."""
    return Reply(text=text, **fields)


def raw_call(name: str, arguments: str, call_id: str | None = None) -> Wanted:
    """A call whose arguments are sent as they are."""
    return Wanted(name, arguments, call_id)


def call(name: str, /, **arguments: Any) -> Wanted:
    """A call as a model should write it."""
    return Wanted(name, orjson.dumps(arguments).decode())


def too_many(retry_after_s: float = 0.0) -> Raw:
    """Status 429, to be asked again after a time."""
    return Raw(_error("slow down"), 429, headers={"Retry-After": f"{retry_after_s:g}"})


def fails(status: int = 500, text: str = "internal trouble") -> Raw:
    """A failure, to be asked again at once where that makes sense."""
    return Raw(_error(text), status, headers={"Retry-After-Ms": "1"})


def _error(text: str) -> bytes:
    return orjson.dumps({"error": {"message": text, "type": "scripted"}})


class ModelServer(LocalServer):
    """The endpoint. Use as a context; `url` is what `AIP_LLM_BASE_URL` takes."""

    def __init__(self, *script: Scripted) -> None:
        super().__init__()
        self.questions: list[Question] = []
        self._script = list(script)
        self._number = 0

    @property
    def url(self) -> str:
        """The address up to `/v1`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def left(self) -> int:
        """How many answers nobody has asked for."""
        return len(self._script)

    def will(self, *script: Scripted) -> None:
        """Add answers."""
        self._script += script

    def next_answer(self, question: Question) -> Scripted:  # noqa: ARG002 - for subclasses that answer without a script
        """What the model says to this question."""
        return self._script.pop(0) if self._script else Raw(_error("the script has run out"), 400)

    # -- HTTP ------------------------------------------------------------------------------------------------------
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = await _read(reader)
            if question is not None:
                self.questions.append(question)
                await self._answer(question, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, question: Question, writer: asyncio.StreamWriter) -> None:
        scripted = self.next_answer(question)
        self._number += 1
        streamed = question.body.get("stream") is True
        if isinstance(scripted, Raw):
            writer.write(_head(scripted.status, scripted.content_type, len(scripted.body), scripted.headers))
            writer.write(scripted.body)
        elif isinstance(scripted, Broken):
            await self._break_off(scripted, writer, streamed=streamed)
        else:
            if scripted.gate is not None:
                await scripted.gate()
            if streamed:
                writer.write(_head(200, "text/event-stream", None, {}))
                wants_usage = bool((question.body.get("stream_options") or {}).get("include_usage"))
                for chunk in _chunks(scripted, self._number, usage=wants_usage):
                    writer.write(_sse(chunk))
                    await writer.drain()
                writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            else:
                body = orjson.dumps(_completion(scripted, self._number))
                writer.write(_head(200, "application/json", len(body), {}) + body)
        await writer.drain()

    async def _break_off(self, broken: Broken, writer: asyncio.StreamWriter, *, streamed: bool) -> None:
        part: Json = {"delta": {"role": "assistant", "content": broken.text}, "finish_reason": None}
        if streamed:
            writer.write(_head(200, "text/event-stream", None, {}))
            writer.write(_sse(_chunk(self._number, [{"index": 0, **part}])))
            writer.write(b"0\r\n\r\n" if broken.politely else b"400\r\ndata: {")
        else:
            writer.write(_head(200, "application/json", 4096, {}) + b'{"choices": [{"mess')
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Question | None:
    head = await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Question(request.split()[1], headers, orjson.loads(body)) if body else None


def _head(status: int, content_type: str, length: int | None, headers: dict[str, str]) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reason = _REASONS.get(status, "Other")
    return (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n{size}\r\nConnection: close\r\n{more}\r\n"
    ).encode()


def _sse(chunk: Json) -> bytes:
    data = b"data: " + orjson.dumps(chunk) + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


# -- the shapes --------------------------------------------------------------------------------------------------------
def _call_id(wanted: Wanted, number: int, place: int) -> str:
    return wanted.call_id if wanted.call_id is not None else f"call_{number}_{place}"


def _completion(reply: Reply, number: int) -> Json:
    calls = [
        {
            "id": _call_id(w, number, i),
            "type": "function",
            "function": {"name": w.name, "arguments": w.arguments},
        }
        for i, w in enumerate(reply.calls)
    ]
    message: Json = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}
    body: Json = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice] if reply.has_choice else [],
    }
    if reply.usage is not None:
        body["usage"] = reply.usage
    return body


def _chunk(number: int, choices: list[Json], usage: Json | None = None) -> Json:
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }


def _chunks(reply: Reply, number: int, *, usage: bool) -> list[Json]:
    """As an endpoint streams: text in pieces, each call's name first and its arguments bit by bit, usage at the end."""
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": part} for part in _pieces(reply.text or "")]
    deltas += [{"refusal": part} for part in _pieces(reply.refusal or "")]
    for place, wanted in enumerate(reply.calls):
        function = {"name": wanted.name, "arguments": ""}
        first = {"index": place, "id": _call_id(wanted, number, place), "type": "function", "function": function}
        deltas.append({"tool_calls": [first]})
        deltas += [
            {"tool_calls": [{"index": place, "function": {"arguments": part}}]} for part in _pieces(wanted.arguments)
        ]
    chunks: list[Json] = []
    if reply.has_choice:
        chunks = [_chunk(number, [{"index": 0, "delta": d, "finish_reason": None}]) for d in deltas]
        chunks.append(_chunk(number, [{"index": 0, "delta": {}, "finish_reason": reply.finish}]))
    if usage and reply.usage is not None:
        chunks.append(_chunk(number, [], reply.usage))
    return chunks


def _pieces(text: str) -> list[str]:
    size = max(7, len(text) // 50)
    return [text[i : i + size] for i in range(0, len(text), size)]
