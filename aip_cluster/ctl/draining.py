"""Emptying a node before its process is told to stop: what an orchestrator runs first (`preStop`).

The drain itself is the node's; this asks for it and waits. A node that cannot be asked is no reason to hold up the
stop: SIGTERM drains it just the same.
"""

import time

from aip_cluster.ctl.rest import Unreachable, ask

__all__ = ["DrainFailed", "drain"]

LOOK_S = 0.5
PATH = "/api/nodes/self/drain"


class DrainFailed(Exception):
    """The node could not be asked, refused, or was not empty in time."""


def drain(url: str, api_key: str | None, *, pause_s: float, wait_s: float) -> int:
    """Wait `pause_s`, have the node at `url` drained, wait `wait_s` at most. Returns how many sockets it moved.

    The pause is for those who still send the node new sockets, because they have not heard yet that it goes. Raises
    DrainFailed.
    """
    time.sleep(pause_s)
    deadline = time.monotonic() + wait_s
    method, expected = "POST", 202
    while True:
        try:
            answer = ask(method, f"{url}{PATH}", api_key=api_key)
        except Unreachable as exc:
            raise DrainFailed(str(exc)) from None
        if answer.status != expected or not isinstance(answer.body, dict):
            raise DrainFailed(f"{method} {PATH}: {answer}")
        if answer.body.get("done"):
            return int(answer.body.get("moved", 0))
        if time.monotonic() >= deadline:
            raise DrainFailed(f"not empty after {wait_s:g} s: {answer.body.get('connections')} sockets are left")
        method, expected = "GET", 200
        time.sleep(LOOK_S)
