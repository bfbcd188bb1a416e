"""One REST call to one node, past any proxy that the environment names.

The standard library is enough for it, so that a probe starts quickly and an image needs nothing more. Nothing here
retries; whoever asks knows whether the question may be repeated.
"""

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "Unreachable", "ask"]


class Unreachable(Exception):
    """Nobody answered, or not in time, or with something that is not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the body, decoded if it is JSON and as text otherwise."""

    status: int
    body: Any

    def __str__(self) -> str:
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return f"{self.status} {text.strip()[:300]}"


def ask(method: str, url: str, body: object = None, *, api_key: str | None = None, timeout_s: float = 5.0) -> Answer:
    """Send a request, with `body` as JSON, and `api_key` in its header. Raises Unreachable; any status is an answer."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    headers = {"X-API-Key": api_key} if api_key else {}
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        text = response.read().decode("utf-8", errors="replace")
    except (OSError, HTTPException) as exc:
        raise Unreachable(f"{method} {parts.netloc}{parts.path}: {exc or type(exc).__name__}") from None
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(text))
    except ValueError:
        return Answer(response.status, text)
