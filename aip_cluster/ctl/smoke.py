"""Whether a cluster is one: a device registers at one node, a task is given to another, its result is read there.

What `helm test` runs. It needs no tool of a real device and leaves nothing behind but an ended session, which expires.
Any step that fails ends it with `SmokeFailed` and the node's own words.
"""

import asyncio
import secrets
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from websockets.exceptions import WebSocketException

from aip_cluster.ctl.device import TOOL, EchoDevice, RegistrationRefused
from aip_cluster.ctl.rest import Answer, Unreachable, ask

__all__ = ["SmokeFailed", "resolve", "smoke"]

WAIT_S = 10


class SmokeFailed(Exception):
    """A step did not lead where it should; the text says which and what was answered."""


def resolve(host: str, port: int) -> list[str]:
    """The base URLs of every address that `host` has: of a headless service, of each pod. Raises SmokeFailed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise SmokeFailed(f"{host}: {exc}") from None
    addresses = sorted({str(entry[4][0]) for entry in found})
    return [f"http://[{a}]:{port}" if ":" in a else f"http://{a}:{port}" for a in addresses]


async def smoke(nodes: Sequence[str], api_key: str | None, *, timeout_s: float) -> dict[str, Any]:
    """Run the test on the first and the last of `nodes` (base URLs); on a single one it is both. Returns what was done.

    Raises SmokeFailed. Cancelling is safe: the device leaves.
    """
    if not nodes:
        raise SmokeFailed("no node is known")
    holder, other = nodes[0], nodes[-1]
    device_id = f"smoke-{secrets.token_hex(6)}"
    said = secrets.token_hex(8)
    device = EchoDevice(f"ws{holder.removeprefix('http')}/ws", device_id, api_key, timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s), device:
            result = await _run(other, device_id, said, api_key)
    except RegistrationRefused as exc:
        raise SmokeFailed(f"the device was refused by {holder}: {exc}") from None
    except TimeoutError:
        raise SmokeFailed(f"not done after {timeout_s:g} s") from None
    except (OSError, WebSocketException) as exc:
        raise SmokeFailed(f"the device cannot connect to {holder}: {exc or type(exc).__name__}") from None
    if device.executed != 1:
        raise SmokeFailed(f"the command was executed {device.executed} times")
    if not _holds(result, said):
        raise SmokeFailed(f"the result is not what the device said: {result}")
    return {"device": device_id, "registered_at": holder, "dispatched_at": other, "nodes": len(nodes)}


async def _run(node: str, device_id: str, said: str, api_key: str | None) -> Any:
    task = {
        "client_id": device_id,
        "request": "Say what you are told",
        "commands": [{"tool_name": TOOL, "parameters": {"said": said}}],
    }
    accepted = await _ask("POST", f"{node}/api/dispatch", task, api_key)
    if accepted.status != 200:
        raise SmokeFailed(f"{node} did not take the task: {accepted}")
    name = quote(str(accepted.body["task_name"]), safe="")
    while True:
        answer = await _ask("GET", f"{node}/api/task_result/{name}?wait={WAIT_S}", None, api_key)
        if answer.status != 200:
            raise SmokeFailed(f"{node} has no result: {answer}")
        if answer.body.get("status") == "done":
            break
    if answer.body.get("state") != "completed":
        raise SmokeFailed(f"the task ended as {answer.body.get('state')}: {answer.body.get('error')}")
    return answer.body.get("result")


async def _ask(method: str, url: str, body: object, api_key: str | None) -> Answer:
    try:
        return await asyncio.to_thread(ask, method, url, body, api_key=api_key, timeout_s=WAIT_S + 10.0)
    except Unreachable as exc:
        raise SmokeFailed(str(exc)) from None


def _holds(result: Any, said: str) -> bool:
    return (
        isinstance(result, list)
        and len(result) == 1
        and isinstance(result[0], dict)
        and result[0].get("result") == {"said": said}
    )
