"""Server-sent events of a session, read as a browser reads them."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

__all__ = ["SentEvent", "follow"]


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One event: its id, its name, and what it says."""

    event_id: str
    name: str
    data: dict[str, Any]


async def follow(http: httpx.AsyncClient, url: str, *, after: str = "") -> AsyncGenerator[SentEvent]:
    """The events of the session at `url`, from behind `after` on, until the node closes the stream."""
    headers = {"Last-Event-ID": after} if after else {}
    async with http.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            if "data" in fields:
                yield SentEvent(fields.get("id", ""), fields.get("event", "message"), orjson.loads(fields["data"]))
            fields = {}
