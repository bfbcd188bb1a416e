"""One question to an OpenAI-compatible endpoint, and whatever it may answer; over a real socket, streamed and not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from devtools.model_server import (
    Broken,
    ModelServer,
    Raw,
    Reply,
    Scripted,
    call,
    fails,
    raw_call,
    say,
    too_many,
)
from node.sessions.planners import Tokens
from node.sessions.planners.llm import endpoint as endpoint_module
from node.sessions.planners.llm.config import EndpointConfig
from node.sessions.planners.llm.endpoint import Answer, Endpoint, LlmError, ToolCall
from tests.support.wait import PATIENCE_S, until

KEY = "sk-of-the-endpoint"
ASKED = [{"role": "user", "content": "how full is the disk?"}]
TOOLS = [{"type": "function", "function": {"name": "df", "parameters": {"type": "object", "properties": {}}}}]

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@asynccontextmanager
async def asking(
    *script: Scripted, stream: bool, timeout_s: float = PATIENCE_S
) -> AsyncIterator[tuple[Endpoint, ModelServer]]:
    async with ModelServer(*script) as server:
        endpoint = Endpoint(EndpointConfig(server.url, "scripted-1", KEY, 0.5, timeout_s, stream))
        try:
            yield endpoint, server
        finally:
            await endpoint.close()


async def ask(*script: Scripted, stream: bool, timeout_s: float = PATIENCE_S) -> Answer:
    async with asking(*script, stream=stream, timeout_s=timeout_s) as (endpoint, server):
        answer = await endpoint.ask(ASKED, TOOLS)
        assert server.left == 0
        return answer


async def refused(*script: Scripted, stream: bool, timeout_s: float = PATIENCE_S) -> str:
    async with asking(*script, stream=stream, timeout_s=timeout_s) as (endpoint, _):
        with pytest.raises(LlmError) as caught:
            await endpoint.ask(ASKED, TOOLS)
    error = str(caught.value)
    assert KEY not in error
    assert "127.0.0.1" not in error
    return error


@both_ways
async def test_words_come_back_with_what_they_cost(stream: bool) -> None:
    text = "It is half full: 51 % of 20 GB. Größe ändert sich nicht. 👍"
    answer = await ask(say(text), stream=stream)
    assert answer == Answer(text=text, finish_reason="stop", tokens=Tokens(100, 10))


@both_ways
async def test_the_question_says_what_was_set(stream: bool) -> None:
    async with asking(say("yes"), say("no"), stream=stream) as (endpoint, server):
        await endpoint.ask(ASKED, TOOLS)
        await endpoint.ask(ASKED, [])
    first, second = server.questions
    assert first.path == "/v1/chat/completions"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert (first.body["model"], first.body["temperature"]) == ("scripted-1", 0.5)
    assert (first.messages, first.body["tools"]) == (ASKED, TOOLS)
    assert bool(first.body.get("stream")) is stream
    assert "tools" not in second.body, "an empty list is refused by many endpoints"


@both_ways
async def test_several_calls_come_back_in_order_with_the_words_beside_them(stream: bool) -> None:
    wanted = (call("df", path="/"), call("du", path="/var", depth=2), raw_call("ls", ""))
    answer = await ask(Reply(text="I look.", calls=wanted), stream=stream)
    assert answer.calls == [
        ToolCall("call_1_0", "df", '{"path":"/"}'),
        ToolCall("call_1_1", "du", '{"path":"/var","depth":2}'),
        ToolCall("call_1_2", "ls", ""),
    ]
    assert (answer.text, answer.finish_reason) == ("I look.", "tool_calls")


@both_ways
async def test_arguments_are_handed_on_as_the_model_wrote_them(stream: bool) -> None:
    texts = ['{"path": "/', "[1, 2]", "rm -rf /", '"text"', "null"]
    answer = await ask(Reply(calls=tuple(raw_call("df", text) for text in texts)), stream=stream)
    assert [c.arguments for c in answer.calls] == texts


@both_ways
async def test_a_refusal_and_a_held_back_answer_are_told_apart_from_silence(stream: bool) -> None:
    assert (await ask(Reply(refusal="I will not."), stream=stream)).refusal == "I will not."
    held_back = await ask(Reply(finish_reason="content_filter"), stream=stream)
    assert (held_back.text, held_back.calls, held_back.finish_reason) == ("", [], "content_filter")
    silent = await ask(Reply(), stream=stream)
    assert (silent.text, silent.calls, silent.finish_reason) == ("", [], "stop")


@both_ways
async def test_an_answer_without_a_choice_is_none(stream: bool) -> None:
    said = await refused(Reply(has_choice=False), stream=stream)
    assert said == ("The model's answer broke off" if stream else "The model's endpoint sent no choice")


@both_ways
async def test_429_is_waited_out_as_long_as_it_says(stream: bool) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asking(too_many(1), say("now"), stream=stream) as (endpoint, server):
        assert (await endpoint.ask(ASKED, TOOLS)).text == "now"
    assert loop.time() - began >= 1
    assert len(server.questions) == 2


@both_ways
async def test_failures_that_pass_are_not_seen(stream: bool) -> None:
    assert (await ask(fails(500), fails(503), say("well again"), stream=stream)).text == "well again"


@both_ways
@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_what_keeps_failing_is_named_by_its_status_alone(stream: bool, status: int) -> None:
    script = [fails(status, f"no: {KEY} is wrong")] * (endpoint_module.MAX_RETRIES + 1)
    assert await refused(*script, stream=stream) == f"The model's endpoint refused with status {status}"


@both_ways
async def test_an_endpoint_that_is_not_there_is_said_to_be_out_of_reach(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_RETRIES", 0)
    async with ModelServer() as server:
        url = server.url
    endpoint = Endpoint(EndpointConfig(url, "scripted-1", KEY, 0.0, PATIENCE_S, stream))
    with pytest.raises(LlmError, match="cannot be reached"):
        await endpoint.ask(ASKED, TOOLS)
    await endpoint.close()


@both_ways
@pytest.mark.parametrize(
    "raw",
    [
        Raw(b"<html>Welcome to the portal</html>", content_type="text/html"),
        Raw(b"{not json"),
        Raw(b"[]"),
        Raw(b"null"),
        Raw(b'"text"'),
        Raw(b""),
        Raw(b'{"choices": null}'),
        Raw(b'{"choices": [null]}'),
        Raw(b'{"choices": [{"index": 0, "finish_reason": "stop"}]}'),
        Raw(b'{"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": 5}}]}'),
        Raw(b'{"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": ["a"]}}]}'),
        Raw(b'{"error": {"message": "out of credit"}}'),
    ],
    ids=lambda raw: raw.body.decode()[:30],
)
async def test_what_is_no_answer_is_no_answer(stream: bool, raw: Raw) -> None:
    assert await refused(raw, stream=stream)


@pytest.mark.parametrize(
    "data",
    [
        b"data: {not json\n\n",
        b"data: []\n\n",
        b"data: 5\n\n",
        b'data: {"choices": [{"delta": null}]}\n\n',
        b'data: {"choices": [{"delta": {"content": 5}}]}\n\n',
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": null}, {"index": 0}]}, "finish_reason": "x"}]}\n\n',
        b'data: {"error": {"message": "overloaded"}}\n\n',
        b"data: [DONE]\n\n",
        b"",
    ],
)
async def test_a_stream_of_nonsense_is_no_answer(data: bytes) -> None:
    assert await refused(Raw(data, content_type="text/event-stream"), stream=True)


async def test_a_stream_that_ends_before_its_answer_does_is_no_answer() -> None:
    assert await refused(Broken(politely=True), stream=True) == "The model's answer broke off"


async def test_a_stream_that_is_cut_is_no_answer() -> None:
    assert await refused(Broken(), stream=True)


async def test_an_answer_that_is_cut_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await ask(Broken(), say("whole"), stream=False)).text == "whole"


@both_ways
async def test_an_answer_without_end_is_too_long(stream: bool) -> None:
    huge = "x" * (endpoint_module.MAX_ANSWER_CHARS + 1)
    assert "too long" in await refused(say(huge), stream=stream)


@both_ways
@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, Tokens()),
        ({"prompt_tokens": None, "completion_tokens": None}, Tokens()),
        ({"prompt_tokens": 7}, Tokens(7, 0)),
        ({"prompt_tokens": "7", "completion_tokens": [1]}, Tokens()),
        ({"prompt_tokens": -7, "completion_tokens": -1}, Tokens()),
    ],
)
async def test_what_it_cost_is_a_number_whatever_the_endpoint_says(
    stream: bool, usage: dict[str, Any] | None, tokens: Tokens
) -> None:
    answer = await ask(say("done", usage=usage), stream=stream)
    assert answer.text == "done"
    assert answer.tokens == tokens


@both_ways
async def test_a_slow_endpoint_is_given_up(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_RETRIES", 0)
    never = asyncio.Event()
    slow = say("too late").after(never.wait)
    assert "did not answer in time" in await refused(slow, stream=stream, timeout_s=0.2)


@both_ways
async def test_a_question_can_be_cancelled(stream: bool) -> None:
    never = asyncio.Event()
    async with asking(say("too late").after(never.wait), say("next"), stream=stream) as (endpoint, server):
        asked = asyncio.create_task(endpoint.ask(ASKED, TOOLS))
        await until(lambda: server.questions, "the question arrives")
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await endpoint.ask(ASKED, TOOLS)).text == "next"


async def test_closing_is_safe_before_the_first_question_and_twice() -> None:
    endpoint = Endpoint(EndpointConfig("http://127.0.0.1:9/v1", "m", KEY, 0.0, 1.0, stream=False))
    await endpoint.close()
    await endpoint.close()
