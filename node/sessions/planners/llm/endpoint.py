"""One OpenAI-compatible endpoint: a question out, an answer back.

The `openai` package retries 429 and 5xx with backoff and heeds Retry-After. Whatever fails in the end, or comes back in
a shape that is none, is an `LlmError` with a sentence that holds no key and no body.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from node.sessions.planners.base import Tokens
from node.sessions.planners.llm.config import EndpointConfig

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Answer", "Endpoint", "LlmError", "ToolCall"]

MAX_RETRIES = 4
MAX_ANSWER_CHARS = 1_000_000


class LlmError(Exception):
    """The endpoint gave no usable answer; `str(error)` may be shown to anybody."""


@dataclass(slots=True)
class ToolCall:
    """A function that the model wants called; `arguments` is JSON as it wrote it."""

    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """What the model said."""

    text: str = ""
    refusal: str = ""
    finish_reason: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    tokens: Tokens = field(default_factory=Tokens)


class Endpoint:
    """A pool of connections to one endpoint. Nothing is opened before the first question."""

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._client: AsyncOpenAI | None = None

    async def ask(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Answer:
        """Ask once. Raises LlmError. Cancelling closes the connection."""
        import openai  # noqa: PLC0415 - an optional extra of some 50 MB, needed by this planner only

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self._config.base_url,
                api_key=self._config.api_key,
                timeout=self._config.timeout_s,
                max_retries=MAX_RETRIES,
            )
        question: dict[str, Any] = {
            "model": self._config.model,
            "messages": messages,
            "temperature": self._config.temperature,
        }
        if tools:
            question["tools"] = tools
        try:
            # A stream that drips keeps every single read within its time: the whole is bounded too.
            async with asyncio.timeout(self._config.timeout_s * (MAX_RETRIES + 1)):
                if self._config.stream:
                    return await self._streamed(question)
                completion = await self._client.chat.completions.create(**question)
                return _read(completion)
        except LlmError:
            raise
        except (openai.APITimeoutError, TimeoutError):
            raise LlmError("The model's endpoint did not answer in time") from None
        except openai.APIStatusError as exc:
            raise LlmError(f"The model's endpoint refused with status {exc.status_code}") from None
        except openai.APIConnectionError:
            raise LlmError("The model's endpoint cannot be reached") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, KeyError, LookupError):
            # The package types what it hopes for; an endpoint may send anything at all.
            raise LlmError("The model's endpoint sent an answer that cannot be read") from None

    async def _streamed(self, question: dict[str, Any]) -> Answer:
        assert self._client is not None  # noqa: S101 - opened by the caller
        answer, size = Answer(), 0
        calls: dict[int, ToolCall] = {}
        stream = await self._client.chat.completions.create(
            **question, stream=True, stream_options={"include_usage": True}
        )
        async with contextlib.aclosing(stream):
            async for chunk in stream:
                if chunk.usage is not None:
                    answer.tokens = _tokens(chunk.usage)
                for choice in (chunk.choices or [])[:1]:
                    delta = choice.delta
                    answer.finish_reason = choice.finish_reason or answer.finish_reason
                    answer.text += delta.content or ""
                    answer.refusal += delta.refusal or ""
                    for part in delta.tool_calls or []:
                        call = calls.setdefault(part.index, ToolCall())
                        call.call_id = part.id or call.call_id
                        if part.function is not None:
                            call.name += part.function.name or ""
                            call.arguments += part.function.arguments or ""
                            size += len(part.function.arguments or "")
                    if size + len(answer.text) > MAX_ANSWER_CHARS:
                        raise LlmError("The model's answer is too long")
        answer.calls = [calls[i] for i in sorted(calls)]
        if not answer.finish_reason:
            raise LlmError("The model's answer broke off")
        return answer

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None


def _read(completion: Any) -> Answer:
    if not completion.choices:
        raise LlmError("The model's endpoint sent no choice")
    choice = completion.choices[0]
    usage = completion.usage
    calls = [
        ToolCall(str(c.id or ""), str(c.function.name or ""), str(c.function.arguments or ""))
        for c in choice.message.tool_calls or []
    ]
    text = choice.message.content
    if not isinstance(text, str | None):
        raise LlmError("The model's endpoint sent an answer that cannot be read")
    if len(text or "") + sum(len(c.arguments) for c in calls) > MAX_ANSWER_CHARS:
        raise LlmError("The model's answer is too long")
    return Answer(
        text=text or "",
        refusal=choice.message.refusal or "",
        finish_reason=choice.finish_reason or "",
        calls=calls,
        tokens=_tokens(usage) if usage is not None else Tokens(),
    )


def _tokens(usage: Any) -> Tokens:
    """What an endpoint says that it used, as far as it makes sense: the package checks none of it."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return Tokens(
        prompt if isinstance(prompt, int) and prompt > 0 else 0,
        completion if isinstance(completion, int) and completion > 0 else 0,
    )
