"""Requests behind a request that is not answered yet: in their turn, within bounds, and none takes another's answer."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from node.serving.http_protocol import HEAD_BYTES
from tests.support.connections import UPGRADE, connect
from tests.support.wait import until

POST = b"POST /%d HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Site:
    """An application that answers with the path that it was asked for, once it may."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.asked: list[str] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.may_answer = asyncio.Event()
        if at_once:
            self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        while (await receive()).get("more_body"):
            pass
        self.headers.append(scope["headers"])
        await self.may_answer.wait()
        body = scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def test_nothing_more_is_read_as_long_as_requests_wait_for_their_turn() -> None:
    site = Site(at_once=True)
    protocol, transport = connect(site)
    protocol.data_received(b"".join(POST % n for n in range(100)))
    while len(transport.writes) < 100:
        assert not transport.reading, "the first is answered in the turn in which it came"
        await asyncio.sleep(0)
    assert transport.reading


async def test_a_handshake_behind_a_request_is_not_taken() -> None:
    """Its answer would be written into the socket."""
    site = Site()
    protocol, transport = connect(site)
    protocol.data_received(POST % 1 + UPGRADE)
    site.may_answer.set()
    await until(lambda: transport.closed, "the connection ends")
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert b" 101 " not in transport.written
    assert transport.protocol is None
    protocol.connection_lost(None)
    assert protocol not in protocol._bounds.owing


@pytest.mark.parametrize("later", [True, False])
async def test_a_request_that_breaks_off_takes_no_answer_from_the_one_ahead_of_it(later: bool) -> None:
    site = Site()
    protocol, transport = connect(site)
    if later:
        protocol.data_received(POST % 1)
        await until(lambda: site.asked, "asked")
    protocol.data_received((b"" if later else POST % 1) + CHUNKED + b"no length\r\n")
    site.may_answer.set()
    await until(lambda: transport.closed, "the connection ends")
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert transport.written.endswith(b"/1")
    assert site.asked == ["/1"]


async def test_a_body_that_breaks_off_under_its_answer_ends_the_connection_without_a_second_answer() -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    protocol, transport = connect(early)
    protocol.data_received(CHUNKED + b"1\r\nx\r\n")
    await until(lambda: transport.writes, "begun")
    protocol.data_received(b"no length\r\n")
    assert transport.closed
    assert transport.written.count(b"HTTP/1.1") == 1
    protocol.connection_lost(None)
    await until(lambda: not protocol.tasks, "over")


@pytest.mark.parametrize("later", [True, False])
async def test_rubbish_behind_a_request_takes_no_answer_from_it(later: bool) -> None:
    site = Site()
    protocol, transport = connect(site)
    if later:
        protocol.data_received(POST % 1)
        await until(lambda: site.asked, "asked")
    protocol.data_received((b"" if later else POST % 1) + b"\x00\x01 rubbish\r\n\r\n")
    protocol.data_received(POST % 2)
    site.may_answer.set()
    await until(lambda: transport.closed, "the connection ends")
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert transport.written.endswith(b"/1")
    assert site.asked == ["/1"]


async def test_rubbish_alone_is_told_so() -> None:
    site = Site()
    protocol, transport = connect(site)
    protocol.data_received(b"\x00\x01 rubbish\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.closed
    assert site.asked == []


async def test_what_follows_a_body_in_chunks_is_no_header_and_is_not_kept() -> None:
    site = Site(at_once=True)
    protocol, transport = connect(site)
    protocol.data_received(CHUNKED + b"1\r\nx\r\n0\r\n")
    await until(lambda: site.asked, "asked")
    for _ in range(100):
        protocol.data_received(b"Idempotency-Key: theirs\r\n" * 100)
    protocol.data_received(b"\r\n")
    await until(lambda: transport.writes, "answered")
    assert site.headers == [[(b"transfer-encoding", b"chunked")]]
    protocol.data_received(POST % 2)
    await until(lambda: len(transport.writes) == 2, "the connection goes on")


async def test_a_large_body_is_not_counted_as_the_head_behind_it() -> None:
    site = Site(at_once=True)
    protocol, transport = connect(site)
    body = b"x" * (HEAD_BYTES + 1_000)
    protocol.data_received(b"POST /1 HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body) + (POST % 2)[:10])
    await until(lambda: len(transport.writes) == 1, "the first is answered")
    protocol.data_received((POST % 2)[10:])
    await until(lambda: len(transport.writes) == 2, "and the second")
    assert not transport.closed


async def test_a_head_without_end_is_cut_whatever_came_before_it() -> None:
    site = Site(at_once=True)
    protocol, transport = connect(site)
    protocol.data_received(POST % 1 + b"GET /2 HTTP/1.1\r\n")
    for _ in range(HEAD_BYTES // 1_000 + 2):
        if not transport.closed:
            protocol.data_received(b"a: %b\r\n" % (b"x" * 1_000))
    assert transport.closed
