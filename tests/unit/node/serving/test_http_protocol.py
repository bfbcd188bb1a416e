"""HTTP on a connection: answers in one write, requests in their turn, and nobody who keeps a connection for nothing."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
from starlette.types import Receive, Scope, Send

from node.serving.http_protocol import HttpProtocol
from tests.support.connections import connect
from tests.support.wait import until

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
GET = b"GET /here?a=1 HTTP/1.1\r\nHost: node\r\n\r\n"


def answering(body: bytes, *headers: tuple[bytes, bytes]) -> Application:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    return application


def sized(body: bytes) -> Application:
    return answering(body, (b"content-length", b"%d" % len(body)))


async def test_an_answer_of_known_length_is_one_write() -> None:
    protocol, transport = connect(sized(b"hello"))
    protocol.data_received(GET)
    await until(lambda: transport.writes, "answered")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"]
    assert not transport.closed


async def test_a_stream_begins_with_its_head_and_goes_on_in_chunks() -> None:
    more = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await more.wait()
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    protocol, transport = connect(stream)
    protocol.data_received(GET)
    await until(lambda: transport.writes, "begun")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]
    more.set()
    await until(lambda: len(transport.writes) == 3, "ended")
    assert transport.writes[1:] == [b"3\r\none\r\n", b"0\r\n\r\n"]


async def test_head_is_answered_without_the_body() -> None:
    protocol, transport = connect(sized(b"hello"))
    protocol.data_received(GET.replace(b"GET", b"HEAD"))
    await until(lambda: transport.writes, "answered")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"])
async def test_whoever_does_not_keep_the_connection_is_told_so(request_line: bytes) -> None:
    protocol, transport = connect(sized(b""))
    protocol.data_received(request_line)
    await until(lambda: transport.closed, "closed")
    assert b"connection: close\r\n" in transport.writes[0]


async def test_an_answer_that_says_close_closes() -> None:
    protocol, transport = connect(answering(b"", (b"content-length", b"0"), (b"Connection", b"close")))
    protocol.data_received(GET)
    await until(lambda: transport.closed, "closed")
    assert transport.writes[0].lower().count(b"connection: close") == 1


@pytest.mark.parametrize("header", [(b"x-id", b"1\r\nx-forged: 2"), (b"x id", b"1"), (b"x\n", b"1")])
async def test_no_header_can_begin_another(header: tuple[bytes, bytes]) -> None:
    protocol, transport = connect(answering(b"", (b"content-length", b"0"), header))
    protocol.data_received(GET)
    await until(lambda: transport.writes, "answered")
    assert transport.writes[0].startswith(b"HTTP/1.1 500 ")
    assert b"forged" not in b"".join(transport.writes)


@pytest.mark.parametrize("length", [b"4", b"6"])
async def test_an_answer_that_is_not_as_long_as_it_says_breaks_the_connection(length: bytes) -> None:
    protocol, transport = connect(answering(b"hello", (b"content-length", length)))
    protocol.data_received(GET)
    await until(lambda: transport.closed, "closed")


async def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        body = scope["query_string"]
        await asyncio.sleep(0)
        await sized(body)(scope, receive, send)

    protocol, transport = connect(echo)
    protocol.data_received(b"".join(GET.replace(b"a=1", b"a=%d" % n) for n in range(5)))
    await until(lambda: len(transport.writes) == 5, "answered")
    assert [w[-3:] for w in transport.writes] == [b"a=0", b"a=1", b"a=2", b"a=3", b"a=4"]


async def test_what_the_application_sees_of_a_request() -> None:
    seen: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append({**scope, "body": (await receive())["body"]})
        await sized(b"")(scope, receive, send)

    protocol, transport = connect(application)
    protocol.data_received(b"POST /a%20b?c=%20 HTTP/1.1\r\nX-Id: 7\r\nContent-Length: 2\r\n\r\nok")
    await until(lambda: transport.writes, "answered")
    scope = seen[0]
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b", b"/a%20b")
    assert (scope["query_string"], scope["headers"][0], scope["body"]) == (b"c=%20", (b"x-id", b"7"), b"ok")
    assert (scope["client"], scope["scheme"]) == (("192.0.2.1", 5), "http")


POST = b"POST /here HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"


def echo(tasks: list[asyncio.Task[None] | None]) -> Application:
    """Answers with the body of the request, and notes the tasks that it ran in."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        await sized(body)(scope, receive, send)

    return application


async def test_each_request_is_answered_by_a_task_that_the_server_knows() -> None:
    tasks: list[asyncio.Task[None] | None] = []
    protocol, transport = connect(echo(tasks))
    protocol.data_received(POST[:-2])
    await until(lambda: len(tasks) == 1, "begun")
    assert protocol.tasks == set(tasks)
    protocol.data_received(POST[-2:])
    await until(lambda: transport.writes, "answered")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]
    await until(lambda: not protocol.tasks, "forgotten")
    protocol.data_received(POST)
    await until(lambda: len(transport.writes) == 2, "answered")
    assert tasks[0] is not tasks[1]


async def test_no_request_inherits_the_context_of_the_one_before_it() -> None:
    asked = ContextVar[str]("asked", default="nothing")
    seen: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(asked.get())
        asked.set(scope["path"])
        await sized(b"")(scope, receive, send)

    protocol, transport = connect(application)
    protocol.data_received(GET * 2)
    await until(lambda: len(transport.writes) == 2, "answered")
    assert seen == ["nothing", "nothing"]


async def test_a_stop_may_end_a_request_that_takes_too_long() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    protocol, transport = connect(application)
    protocol.data_received(POST)
    (under_way,) = protocol.tasks
    await asyncio.sleep(0)
    under_way.cancel(msg="it takes too long")
    await until(lambda: not protocol.tasks, "ended")
    assert transport.writes[0].startswith(b"HTTP/1.1 500 ")


async def test_many_requests_that_come_at_once_are_not_answered_one_inside_the_other() -> None:
    protocol, transport = connect(echo([]))
    protocol.data_received(POST * 2_000)
    await until(lambda: len(transport.writes) == 2_000, "answered")
    assert transport.reading


async def test_what_is_asked_behind_another_request_is_not_read_without_bound() -> None:
    go_on = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await sized(b"")(scope, receive, send)

    protocol, transport = connect(application)
    protocol.data_received(POST * 2)
    assert not transport.reading
    go_on.set()
    await until(lambda: len(transport.writes) == 2, "answered")
    assert transport.reading


async def test_a_connection_that_is_gone_waits_for_no_collector() -> None:
    protocol, transport = connect(echo([]))
    under_way = protocol.tasks
    protocol.data_received(POST)
    await until(lambda: transport.writes and not under_way, "answered")
    protocol.connection_lost(None)
    gone = weakref.ref(protocol)
    gc.disable()
    try:
        del protocol
        assert gone() is None
    finally:
        gc.enable()


async def test_who_is_answered_learns_that_the_peer_is_gone_whatever_was_asked_behind() -> None:
    heard: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        heard.append((await receive())["type"])

    protocol, _ = connect(application)
    protocol.data_received(POST * 2)
    protocol.connection_lost(None)
    await until(lambda: heard, "told")
    await until(lambda: not protocol.tasks, "over")
    assert heard == ["http.disconnect"], "the one behind is not begun"


async def test_a_body_may_come_in_pieces_and_be_received_as_it_comes() -> None:
    pieces: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            pieces.append(message["body"])
            if not message["more_body"]:
                break
        await sized(b"".join(pieces))(scope, receive, send)

    protocol, transport = connect(application)
    protocol.data_received(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
    await until(lambda: transport.writes, "asked for the body")
    assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    for piece in (b"2\r\nab\r\n1\r\nc\r\n1\r\nd\r\n", b"1\r\ne\r\n", b"0\r\n\r\n"):
        protocol.data_received(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await until(lambda: len(transport.writes) == 2, "answered")
    assert transport.writes[1].endswith(b"abcde")
    assert pieces[0] == b"abcd"


async def test_an_answer_waits_until_the_peer_has_read_what_came_before() -> None:
    protocol, transport = connect(echo([]))
    protocol.pause_writing()
    protocol.data_received(POST)
    await asyncio.sleep(0.01)
    assert transport.writes == []
    protocol.resume_writing()
    await until(lambda: transport.writes, "answered")


async def test_a_connection_that_is_kept_for_nothing_is_closed_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, passed_s = asyncio.get_running_loop(), 0.0
    running_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: running_s() + passed_s)
    protocol, transport = connect(sized(b""), timeout_keep_alive=60, head_timeout_s=600)
    for number in range(1, 4):
        protocol.data_received(GET)
        await until(lambda number=number: len(transport.writes) == number, "answered")
        passed_s += 40
        await asyncio.sleep(0.01)  # what is due by now happens
        assert not transport.closed, "each request gives it the time anew"
    passed_s += 40
    await until(lambda: transport.closed, "closed")
    assert _refusals(protocol) == 0
    protocol.connection_lost(None)


@pytest.mark.parametrize("before", [b"", GET])
async def test_whoever_does_not_finish_a_head_is_cut(before: bytes) -> None:
    protocol, transport = connect(sized(b""), head_timeout_s=0.2)
    if before:
        protocol.data_received(before)
        await until(lambda: transport.writes, "answered")
        await asyncio.sleep(0.1)
    protocol.data_received(GET[:10])
    await until(lambda: transport.closed, "cut")
    assert _refusals(protocol) == 1


def _refusals(protocol: HttpProtocol) -> float:
    return protocol._bounds.metrics.registry.get_sample_value("aip_refusals_total", {"reason": "head_timeout"}) or 0.0
