"""A look at the Redis servers when a node starts: what is set up so that data would be lost is said in the log.

It never fails the start and changes nothing. A user without the rights to INFO and CONFIG is common: then that is said.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from shared_state.errors import StateError
from shared_state.redis.connection import Connection

__all__ = ["check_servers"]

log = logging.getLogger(__name__)

OLDEST = (6, 2)
OLDEST_FOR_CLUSTER = (7, 0)


async def check_servers(connection: Connection) -> list[str]:
    """Log a warning for everything that should be otherwise; returns the warnings. Raises nothing of Redis."""
    try:
        infos, policies, appends, saves = await asyncio.gather(
            connection.ask_each_server("INFO"),
            connection.ask_each_server("CONFIG", "GET", "maxmemory-policy"),
            connection.ask_each_server("CONFIG", "GET", "appendonly"),
            connection.ask_each_server("CONFIG", "GET", "save"),
        )
    except StateError as exc:
        found = [f"the Redis servers could not be checked: {exc}"]
    else:
        found = [
            *_about_versions(infos, oldest=OLDEST if connection.one_server else OLDEST_FOR_CLUSTER),
            *_about_eviction(policies),
            *_about_persistence(appends, saves),
        ]
    for text in found:
        log.warning("Redis: %s", text)
    return found


def _about_versions(infos: list[Any], *, oldest: tuple[int, int]) -> Iterator[str]:
    wanted = ".".join(map(str, oldest))
    for version in sorted({_version(info) for info in infos}):
        if not version:
            yield f"its version could not be read; {wanted} or later is needed"
        elif tuple(int(n) for n in version.split(".")[:2]) < oldest:
            yield f"version {version} is too old; {wanted} or later is needed"


def _about_eviction(policies: list[Any]) -> Iterator[str]:
    for policy in sorted({_setting(reply) for reply in policies}):
        if not policy:
            yield "its eviction policy could not be read; maxmemory-policy should be noeviction"
        elif policy != "noeviction":
            yield f"maxmemory-policy is {policy}: sessions vanish when memory is short; it should be noeviction"


def _about_persistence(appends: list[Any], saves: list[Any]) -> Iterator[str]:
    kept = [(_setting(a), _setting(s)) for a, s in zip(appends, saves, strict=True)]
    if any(append == "no" and not save for append, save in kept):
        yield "it keeps nothing on disk (appendonly no, save ''): a restart loses every session"


def _version(info: Any) -> str:
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else info
    if isinstance(text, dict):
        return str(text.get("redis_version", ""))
    if isinstance(text, str):
        for line in text.splitlines():
            if line.startswith("redis_version:"):
                return line.partition(":")[2].strip()
    return ""


def _setting(reply: Any) -> str:
    # Settings come as [name, value]; a refusal is an error in its place.
    if isinstance(reply, list) and len(reply) == 2:
        return bytes(reply[1]).decode("utf-8", "replace")
    return ""
