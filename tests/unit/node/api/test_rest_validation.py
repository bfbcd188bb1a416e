"""What REST refuses, with which status, in which words."""

from typing import Any

import httpx
import orjson
import pytest

from node.app import Node
from node.settings import Settings
from tests.support.asgi import Device, rest
from tests.unit.node.conftest import MakeNode

GOOD = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "t"}]}
DEEP: Any = 1
for _ in range(250):
    DEEP = [DEEP]


async def _dispatch(api: httpx.AsyncClient, body: Any) -> httpx.Response:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return await api.post("/api/dispatch", content=raw, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("request_text", [None, "", "   ", "\n\t", 0, [], False])
async def test_a_task_without_content(api: httpx.AsyncClient, request_text: Any) -> None:
    answer = await _dispatch(api, {"client_id": "device-1", "request": request_text})
    assert (answer.status_code, answer.json()) == (400, {"detail": "Empty task content"})


async def test_a_task_without_content_is_told_before_a_missing_client(api: httpx.AsyncClient) -> None:
    answer = await _dispatch(api, {})
    assert (answer.status_code, answer.json()) == (400, {"detail": "Empty task content"})


@pytest.mark.parametrize("client_id", [None, "", 0, []])
async def test_a_task_for_nobody(api: httpx.AsyncClient, client_id: Any) -> None:
    answer = await _dispatch(api, {"client_id": client_id, "request": "do it"})
    assert (answer.status_code, answer.json()) == (400, {"detail": "Empty client ID"})


async def test_a_task_for_a_client_that_is_not_online(api: httpx.AsyncClient) -> None:
    answer = await _dispatch(api, GOOD)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Client not online"})
    assert (await api.get("/api/sessions")).json() == {"sessions": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"request": 5}, "request:"),
        ({"request": ["x"]}, "request:"),
        ({"client_id": 5}, "client_id:"),
        ({"client_id": "a{b}"}, "client_id:"),
        ({"client_id": "a\nb"}, "client_id:"),
        ({"client_id": "x" * 257}, "client_id:"),
        ({"task_name": "../x"}, "task_name:"),
        ({"task_name": "a/b"}, "task_name:"),
        ({"task_name": ".x"}, "task_name:"),
        ({"task_name": ""}, "task_name:"),
        ({"task_name": 5}, "task_name:"),
        ({"timeout_s": 0}, "timeout_s:"),
        ({"timeout_s": -1}, "timeout_s:"),
        ({"timeout_s": "soon"}, "timeout_s:"),
        ({"timeout_s": True}, "timeout_s:"),
        ({"timeout_s": 86_401}, "timeout_s: must be at most 86400"),
        ({"timeout_s": 1e300}, "timeout_s: must be at most 86400"),
        ({"planner": "magic"}, "planner: must be one of auto,"),
        ({"planner": []}, "planner:"),
        ({"metadata": []}, "metadata:"),
        ({"metadata": "x"}, "metadata:"),
        ({"commands": {}}, "commands:"),
        ({"commands": [{}]}, "commands.0.tool_name:"),
        ({"commands": [{"tool_name": ""}]}, "commands.0.tool_name:"),
        ({"commands": [{"tool_name": "t", "parameters": []}]}, "commands.0.parameters:"),
        ({"commands": [{"tool_name": "t", "tool_type": "magic"}]}, "commands.0.tool_type:"),
        ({"commands": [{"tool_name": "t", "typo": 1}]}, "commands.0.typo: unknown field"),
        ({"commands": [{"tool_name": "t"}] * 257}, "commands:"),
        ({"typo": 1}, "typo: unknown field"),
    ],
    ids=str,
)
async def test_a_wrong_field_is_named(node: Node, api: httpx.AsyncClient, change: dict[str, Any], names: str) -> None:
    async with Device(node):
        answer = await _dispatch(api, GOOD | change)
    assert answer.status_code == 400
    assert list(answer.json()) == ["detail"]
    assert answer.json()["detail"].startswith(names)


@pytest.mark.parametrize(
    ("field", "value"),
    [("commands", [{"tool_name": "t"}] * 257), ("max_attempts", 11), ("timeout_s", True), ("timeout_s", 86_401)],
    ids=["commands", "max_attempts", "no-number", "timeout_s"],
)
async def test_a_task_is_judged_alike_on_every_way_in(
    node: Node, api: httpx.AsyncClient, field: str, value: Any
) -> None:
    """By itself, in the list of a batch, and as the task of a selector."""
    async with Device(node):
        single = await _dispatch(api, GOOD | {field: value})
        listed = await api.post("/api/dispatch/batch", json={"tasks": [GOOD | {field: value}]})
        selected = {"selector": {"client_ids": ["device-1"]}, "request": "do it", field: value}
        chosen = await api.post("/api/dispatch/batch", json=selected)
    assert [answer.status_code for answer in (single, listed, chosen)] == [400, 400, 400]
    said = single.json()["detail"]
    assert said.startswith(f"{field}: ")
    assert listed.json()["detail"] == f"tasks.0.{said}"
    assert chosen.json()["detail"] == said


async def test_every_wrong_field_is_named(api: httpx.AsyncClient) -> None:
    detail = (await _dispatch(api, GOOD | {"task_name": 1, "metadata": 2, "typo": 3})).json()["detail"]
    for name in ("task_name: ", "metadata: ", "typo: unknown field"):
        assert name in detail


@pytest.mark.parametrize("raw", [b"", b"{", b"nonsense", b"\xff", b'{"request":"\\ud800"}', orjson.dumps({"x": DEEP})])
async def test_a_body_that_is_no_json(api: httpx.AsyncClient, raw: bytes) -> None:
    answer = await _dispatch(api, raw)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("the body is ")


@pytest.mark.parametrize("body", [[], "x", 1, None, True])
async def test_a_body_that_is_no_object(api: httpx.AsyncClient, body: Any) -> None:
    answer = await _dispatch(api, body)
    assert (answer.status_code, answer.json()) == (400, {"detail": "The body must be a JSON object"})


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_a_body_of_another_kind(api: httpx.AsyncClient, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await api.post("/api/dispatch", content=orjson.dumps(GOOD), headers=headers)
    assert (answer.status_code, answer.json()) == (415, {"detail": "Content-Type must be application/json"})


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", " application/json ;x=y"])
async def test_spellings_of_json(api: httpx.AsyncClient, kind: str) -> None:
    answer = await api.post("/api/dispatch", content=orjson.dumps(GOOD), headers={"Content-Type": kind})
    assert answer.status_code == 404


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in-chunks"])
async def test_a_body_that_is_too_large(make_node: MakeNode, declared: bool) -> None:
    node = await make_node(max_body_bytes=1_000)

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100

    content = b" " * 1_001 if declared else chunks()
    async with rest(node) as api:
        answer = await api.post("/api/dispatch", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()) == (413, {"detail": "The body is larger than 1000 bytes"})
        fits = orjson.dumps(GOOD).ljust(1_000)
        assert (await _dispatch(api, fits)).status_code == 404


async def test_a_name_whose_task_is_running(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        assert (await _dispatch(api, GOOD | {"task_name": "job"})).status_code == 200
        answer = await _dispatch(api, GOOD | {"task_name": "job"})
    assert (answer.status_code, answer.json()) == (409, {"detail": "Task 'job' is already running"})


async def test_a_task_that_no_planner_can_run(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        bodies: list[dict[str, Any]] = [{"commands": None}, {"commands": []}, {"planner": "direct", "commands": []}]
        for body in bodies:
            answer = await _dispatch(api, GOOD | body)
            assert answer.status_code == 422
            assert "'commands'" in answer.json()["detail"]
        answer = await _dispatch(api, GOOD | {"planner": "device"})
        assert answer.status_code == 422
        assert (await api.get("/api/sessions")).json()["sessions"] == [], "nothing is left behind"


async def test_a_device_with_too_much_to_do(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Device(node):
        monkeypatch.setattr(node.state.session_creator, "_max_sessions", 1)
        assert (await _dispatch(api, GOOD | {"task_name": "first"})).status_code == 200
        answer = await _dispatch(api, GOOD | {"task_name": "job"})
        assert answer.status_code == 429
        assert answer.headers["Retry-After"] == "1"
        monkeypatch.setattr(node.state.session_creator, "_max_sessions", 100)
        assert (await api.get("/api/task_result/job")).status_code == 404
        assert (await _dispatch(api, GOOD | {"task_name": "job"})).status_code == 200


@pytest.mark.parametrize("path", ["/api/task_result/nothing", "/api/task_result/a/b", "/api/sessions/nothing"])
async def test_what_is_not_there(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("Unknown ")


async def test_a_client_that_is_not_there(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api/clients/nobody")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Client not online"})


async def test_what_is_not_there_cannot_be_cancelled(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/sessions/nothing/cancel")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("Unknown session")


@pytest.mark.parametrize("wait", ["-1", "soon", "nan", "inf", "-inf", "", "1e999"])
async def test_a_wait_that_is_no_duration(api: httpx.AsyncClient, wait: str) -> None:
    answer = await api.get("/api/task_result/x", params={"wait": wait})
    assert (answer.status_code, answer.json()) == (
        400,
        {"detail": "wait: must be a number of seconds, 0 or more"},
    )


@pytest.mark.parametrize(
    "limit", ["0", "501", "-1", "x", "", "1.5", "٣", "9" * 5_000, "000000000050" + "9" * 4, "0" * 12 + "9" * 5_000]
)
async def test_a_limit_out_of_bounds(api: httpx.AsyncClient, limit: str) -> None:
    answer = await api.get("/api/sessions", params={"limit": limit})
    assert (answer.status_code, answer.json()) == (
        400,
        {"detail": "limit: must be a whole number from 1 to 500"},
    )


@pytest.mark.parametrize("cursor", ["x", "!!!", "a" * 10_000, "bm90IGEgcGxhY2U", "/w", "OnM", "ä"])
async def test_a_cursor_that_was_never_given(api: httpx.AsyncClient, cursor: str) -> None:
    answer = await api.get("/api/sessions", params={"cursor": cursor})
    assert (answer.status_code, answer.json()) == (
        400,
        {"detail": "cursor: must be the next_cursor of an earlier answer"},
    )


async def test_an_unknown_state_or_flag(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api/sessions", params={"state": "happy"})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("state: must be one of created, dispatched, ")
    answer = await api.get("/api/clients", params={"detail": "maybe"})
    assert (answer.status_code, answer.json()) == (400, {"detail": "detail: must be 1 or 0"})


def test_the_documented_bound_of_wait_is_the_default() -> None:
    assert Settings().max_wait_s == 60


@pytest.mark.parametrize(
    ("change", "field", "bound"),
    [
        ({"request": "x" * 65_537}, "request", 65_536),
        ({"request": "\u20ac" * 30_000}, "request", 65_536),
        ({"metadata": {"a": "x" * 65_536}}, "metadata", 65_536),
        ({"commands": [{"tool_name": "t", "parameters": {"a": "x" * 3_000}}] * 200}, "commands", 524_288),
    ],
    ids=["request", "request-utf8", "metadata", "commands"],
)
async def test_a_part_of_a_task_that_is_too_large(
    node: Node, api: httpx.AsyncClient, change: dict[str, Any], field: str, bound: int
) -> None:
    async with Device(node):
        answers = [
            await _dispatch(api, GOOD | change | {"queue_if_offline": True}),
            await api.post("/api/dispatch/batch", json={"tasks": [GOOD | change]}),
        ]
    assert [a.status_code for a in answers] == [413, 413]
    for answer, name in zip(answers, (field, f"tasks.0.{field}"), strict=True):
        assert answer.json()["detail"].startswith(f"{name}: has ")
        assert f"at most {bound} are allowed (max_{field}_bytes)" in answer.json()["detail"]
