"""What is no request, byte by byte, and the answer to it."""

import contextlib
import json
import re
import socket

__all__ = ["HOST", "MALFORMED", "UPGRADE", "ask_raw", "is_json_refusal"]


def ask_raw(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    """The status, head and body of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                answer += piece
                head, end, body = answer.partition(b"\r\n\r\n")
                found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                if end and found and len(body) >= int(found[1]):
                    break
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


UPGRADE = (
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
HOST = b"Host: localhost\r\n"
MALFORMED = {
    "a zero byte in the path": b"GET /%00 HTTP/1.1\r\n" + HOST,
    "bad percent-encoding": b"GET /%zz HTTP/1.1\r\n" + HOST,
    "half a percent-encoding": b"GET /% HTTP/1.1\r\n" + HOST,
    "a path above the root": b"GET /../.. HTTP/1.1\r\n" + HOST,
    "no path": b"GET x HTTP/1.1\r\n" + HOST,
    "a URL of 70 kB": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + HOST,
    "a query of 70 kB": b"GET /?" + b"x" * 70_000 + b" HTTP/1.1\r\n" + HOST,
    "a header of 70 kB": b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + b"x" * 70_000 + b"\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST,
    "CONNECT to a path": b"CONNECT / HTTP/1.1\r\n" + HOST,
    "TRACE": b"TRACE / HTTP/1.1\r\n" + HOST,
    "no method": b"\x00\x01 / HTTP/1.1\r\n" + HOST,
    "no Host": b"GET / HTTP/1.1\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST,
    "a Host with a space": b"GET / HTTP/1.1\r\nHost: a b\r\n",
    "a Host with a zero byte": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n" + HOST,
    "HTTP/x": b"GET / HTTP/x\r\n" + HOST,
    "a Content-Length that is none": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n",
    "a negative Content-Length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    "an unknown Transfer-Encoding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n" + HOST + b": x\r\n",
    "a chunk of no length": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n",
    "the place of its own refusals": b"GET /aip-refused/malformed HTTP/1.1\r\n" + HOST,
}


def is_json_refusal(status: int, head: bytes, body: bytes) -> bool:
    """Whether this is a 4xx with `{"detail": …}`. Fails the test, showing it, if not."""
    assert 400 <= status < 500, head
    assert b"content-type: application/json" in head.lower(), head
    # The result of an unknown task has a status beside it, for UFO's code.
    assert set(json.loads(body)) - {"status"} == {"detail"}
    return True
