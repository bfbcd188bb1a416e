"""One HTTP request and one Redis PING, without any library and past any proxy that the environment names."""

import json
import socket
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "Unreachable", "ask", "ping_redis"]


class Unreachable(Exception):
    """Nobody answered, or not in time, or with something that is not HTTP."""


@dataclass(frozen=True)
class Answer:
    """A status and the body, decoded if it is JSON and as text otherwise."""

    status: int
    body: Any

    def __str__(self) -> str:
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return f"{self.status} {text.strip()[:300]}"


def ask(method: str, url: str, body: object = None, *, api_key: str | None = None, timeout_s: float = 5.0) -> Answer:
    """Sends a request, with `body` as JSON. Raises Unreachable; any status is an answer."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    headers = {"Content-Type": "application/json", "X-API-Key": api_key or ""}
    if not api_key:
        del headers["X-API-Key"]
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode("utf-8", errors="replace")
    except (OSError, HTTPException) as exc:
        raise Unreachable(f"{method} {url}: {exc or type(exc).__name__}") from None
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(text))
    except ValueError:
        return Answer(response.status, text)


def ping_redis(host: str, port: int, timeout_s: float = 2.0) -> None:
    """Returns if a Redis is there, also one that asks for a password. Raises Unreachable."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(b"PING\r\n")
            reply = connection.recv(200)
    except OSError as exc:
        raise Unreachable(f"Redis at {host}:{port}: {exc}") from None
    if not reply.startswith((b"+PONG", b"-NOAUTH")):
        raise Unreachable(f"Redis at {host}:{port} says {reply.decode(errors='replace').strip()!r}")
