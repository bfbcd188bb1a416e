"""The first task: sent through the public address to the device that `scripts/up` started, and its result."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from devtools.outcome import Exit, ScriptError, say
from devtools.web import Answer, Unreachable, ask

__all__ = ["DEVICE_ID", "run"]

DEVICE_ID = "demo-device"
COMMAND = "uname -a"
TASK = {
    "client_id": DEVICE_ID,
    "request": "Say what machine this is",
    "commands": [{"tool_name": "execute_command", "parameters": {"command": COMMAND}}],
}
PATIENCE_S = 30.0
WAIT_S = 10
SHOWN_LINES = 30


class DemoFailed(Exception):
    """The cluster answered, and not with what a first task should lead to."""


def run(base_url: str, api_key: str | None, log: Path) -> None:
    """Dispatches the task and prints what came of it. Raises ScriptError, with the device's `log`, if it failed."""
    try:
        _run(base_url, api_key)
    except Unreachable as exc:
        raise ScriptError(Exit.DEMO_FAILED, f"the first task got no answer: {exc}", log) from None
    except DemoFailed as exc:
        raise ScriptError(Exit.DEMO_FAILED, str(exc), log) from None


def _run(base_url: str, api_key: str | None) -> None:
    say(f"First task: `{COMMAND}` on {DEVICE_ID}")
    accepted = _ask("POST", f"{base_url}/api/dispatch", TASK, api_key)
    if accepted.status != 200:
        raise DemoFailed(f"the first task was not accepted: {accepted}")
    name = quote(str(accepted.body["task_name"]), safe="")
    url = f"{base_url}/api/task_result/{name}?wait={WAIT_S}"
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = _ask("GET", url, None, api_key)
        body = answer.body if answer.status == 200 and isinstance(answer.body, dict) else {}
        if body.get("status") == "done":
            break
        if body.get("status") != "pending":
            raise DemoFailed(f"the result of the first task cannot be read: {answer}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"the first task had no result after {PATIENCE_S:.0f} s")
        time.sleep(0.1)
    if body.get("state", "completed") != "completed":
        raise DemoFailed(f"the first task ended as {body['state']}: {body.get('error')}")
    for line in _readable(body.get("result"))[:SHOWN_LINES]:
        say(f"    {line}")


def _ask(method: str, url: str, body: object, api_key: str | None) -> Answer:
    return ask(method, url, body, api_key=api_key, timeout_s=WAIT_S + 10.0)


def _readable(result: Any) -> list[str]:
    text = result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False)
    return text.splitlines()
