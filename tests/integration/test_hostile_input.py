"""Names and frames chosen by an attacker: refused in words, never a path, a key, a log line, a header, or a crash."""

import orjson
import pytest

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually
from tests.integration.harness.peers import Frame
from tests.integration.harness.ufo import UfoConstellation, UfoDevice

pytestmark = pytest.mark.integration

ECHO = command("echo")
TRAVERSALS = [
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "C:\\Windows\\system32",
    "c:evil",
    "..\\..\\evil",
    "%2e%2e%2fetc%2fpasswd",
    "a/../b",
    "a/./b",
    ".hidden",
    "a//b",
    "a/",
    "a\x00b",
    "a\nb",
    "{nodes}",
    "x" * 300,
]
BAD_IDS = ["a{b}", "}", "a\r\nb", "a\x00b", "a\x1bb", "x" * 300, " lead", "\x7f", "a\u2028b", "a\u0085b"]
NOT_MESSAGES: dict[str, str | bytes] = {
    "not JSON": "hello",
    "nothing": "",
    "half an object": '{"type": "heartbeat"',
    "a list": "[]",
    "a number": "1",
    "null": "null",
    "no type": "{}",
    "an unknown type": '{"type": "self_destruct"}',
    "a type that is no string": '{"type": {"$ne": null}}',
    "a status that is none": '{"type": "heartbeat", "status": "splendid"}',
    "an id that is no string": '{"type": "task", "client_id": 7}',
    "results that are no list": '{"type": "command_results", "action_results": "x"}',
    "a lone surrogate": '{"type": "heartbeat", "client_id": "\\ud800"}',
    "NaN": '{"type": "heartbeat", "metadata": {"x": NaN}}',
    "binary": b"\x00\x01\x02\xff\xfe",
    "deep nesting": '{"type": "heartbeat", "metadata": ' + '{"a":' * 900 + "1" + "}" * 900 + "}",
    "very deep nesting": "[" * 100_000 + "]" * 100_000,
    "a result without payload": '{"type": "result", "request_id": "x"}',
}


# -- task names ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task_name", TRAVERSALS)
async def test_a_task_name_that_leads_elsewhere_is_refused_over_rest(
    cluster: Cluster, guests: Guests, task_name: str
) -> None:
    device = await guests.device(cluster.a)

    refused = await cluster.b.try_dispatch(device.client_id, ECHO, task_name=task_name)

    assert refused.status_code == 400
    assert refused.json()["detail"].startswith("task_name:")
    await device.still_served()
    assert device.count("task") == 0


@pytest.mark.parametrize("task_name", TRAVERSALS)
async def test_a_task_name_that_leads_elsewhere_is_refused_over_aip(
    cluster: Cluster, guests: Guests, task_name: str
) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    session_id = await galaxy.task(ECHO, task_name=task_name)
    error = await galaxy.expect("error", session_id=session_id)

    assert error["error"].startswith("task_name:")
    assert (await cluster.c.get(f"/api/sessions/{session_id}")).status_code == 404
    await device.still_served()
    assert device.count("task") == 0


@pytest.mark.parametrize(
    "path", ["..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "a%00b", "a%0d%0aX-Evil:%201", "%ff%fe", "{nodes}"]
)
async def test_a_result_or_session_of_an_impossible_name_is_unknown_and_nothing_more(
    cluster: Cluster, path: str
) -> None:
    for kind in ("task_result", "sessions", "clients"):
        answer = await cluster.a.get(f"/api/{kind}/{path}")
        assert answer.status_code == 404, answer.text
        assert set(answer.json()) - {"status"} == {"detail"}
        assert "x-evil" not in answer.headers


# -- ids -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("client_id", BAD_IDS)
async def test_an_id_that_could_forge_a_key_a_log_line_or_a_header_is_refused(
    cluster: Cluster, guests: Guests, client_id: str
) -> None:
    socket = await guests.socket(cluster.a)
    before = cluster.redis.key_names("aip:client:*")

    await socket.send(UfoDevice(cluster.a.ws_url, client_id).registration())
    error = await socket.expect("error")
    closed = await socket.until_closed()
    dispatched = await cluster.b.try_dispatch(client_id, ECHO)

    assert error["error"].startswith("client_id:")
    assert closed.code >= 4000
    assert dispatched.status_code == 400
    # Who was there before may go: devices of the test before this one.
    assert set(cluster.redis.key_names("aip:client:*")) <= set(before)


@pytest.mark.parametrize("session_id", BAD_IDS)
async def test_a_session_id_that_could_forge_a_key_or_a_log_line_is_refused(
    cluster: Cluster, guests: Guests, session_id: str
) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    await galaxy.task(ECHO, session_id=session_id)

    assert (await galaxy.expect("error"))["error"].startswith("session_id:")
    await device.still_served()
    assert device.count("task") == 0


async def test_an_id_that_looks_like_a_key_or_a_path_is_only_an_id(cluster: Cluster, guests: Guests) -> None:
    name = unique("x")
    for client_id in (f"{name}:inbox", f"{name}/admin", f"aip:client:{name}", f"{name}@b", f"-{name}", f"{name}."):
        device = await guests.device(cluster.a, client_id)
        answer = await cluster.b.dispatch(client_id, ECHO)
        assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"
        assert client_id in await cluster.c.online()
        await device.close()


async def test_nothing_that_a_client_writes_begins_a_line_of_the_log(cluster: Cluster, guests: Guests) -> None:
    marker = unique("forged")
    forged = f"x\r\n2026-01-01T00:00:00.000Z ERROR   node: {marker}\n{marker}"
    device = await guests.device(cluster.a)
    socket = await guests.socket(cluster.a)

    await device.send({"type": "error", "status": "error", "error": forged})
    await device.send({"type": "heartbeat", "client_id": forged})
    await device.send({"type": forged})
    await socket.send({"type": "register", "client_id": forged})
    await socket.until_closed()
    await device.still_served()
    await cluster.a.get("/api/clients/x", **{"q\r\nq": forged})
    await cluster.a.post("/api/dispatch", {"client_id": forged, "request": forged}, **{"X-Request-ID": "a b;c"})

    lines = cluster.a.process.log().splitlines()
    assert [line for line in lines if line.startswith((marker, "2026-01-01"))] == []


async def test_a_request_id_from_outside_is_repeated_only_if_it_is_harmless(cluster: Cluster) -> None:
    good = await cluster.a.post("/api/dispatch", {}, **{"X-Request-ID": "abc-1.2_3"})
    bad = await cluster.a.post("/api/dispatch", {}, **{"X-Request-ID": "a: b, c=d"})

    assert good.headers["x-request-id"] == "abc-1.2_3"
    assert bad.headers["x-request-id"] != "a: b, c=d"


# -- frames ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", NOT_MESSAGES)
async def test_a_frame_that_is_no_message_is_answered_with_an_error_and_the_socket_lives(
    cluster: Cluster, guests: Guests, what: str
) -> None:
    device = await guests.device(cluster.a)

    await device.send(NOT_MESSAGES[what])
    error = await device.expect("error", status="error")
    await device.still_served()

    assert error["error"]
    assert "Traceback" not in error["error"]
    answer = await cluster.b.dispatch(device.client_id, ECHO)
    assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"


@pytest.mark.parametrize("what", NOT_MESSAGES)
async def test_a_first_frame_that_is_no_message_is_refused_and_the_socket_closed(
    cluster: Cluster, guests: Guests, what: str
) -> None:
    socket = await guests.socket(cluster.a)

    await socket.send(NOT_MESSAGES[what])

    assert (await socket.expect("error", status="error"))["error"]
    assert (await socket.until_closed()).code >= 4000


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400, "-" + "9" * 30, "1e-999", "18446744073709551616"])
async def test_a_huge_number_in_a_result_does_no_harm(cluster: Cluster, guests: Guests, number: str) -> None:
    device = await guests.device(cluster.a, answers=False)
    answer = await cluster.b.dispatch(device.client_id, ECHO, timeout_s=20)
    commands = await device.expect("command")

    head = {"type": "command_results", "session_id": commands["session_id"], "prev_response_id": ""}
    head["prev_response_id"] = commands["response_id"]
    text = orjson.dumps(head).decode()[:-1] + ', "action_results": [{"status": "success", "result": NUMBER}]}'
    await device.send(text.replace("NUMBER", number))
    await device.still_served()
    if device.count("error"):
        await device.answer(commands)

    assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"
    assert (await cluster.c.get(f"/api/sessions/{answer['session_id']}")).status_code == 200


async def test_a_result_nested_as_deep_as_allowed_is_stored_and_read(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a, answers=False)
    galaxy = await guests.constellation(cluster.b, device.client_id)
    session_id = await galaxy.task(ECHO)
    commands = await device.expect("command")

    value: Frame | list[object] = []
    for _ in range(190):
        value = [value]
    head = {"type": "command_results", "session_id": session_id, "prev_response_id": commands["response_id"]}
    await device.send({**head, "action_results": [{"status": "success", "result": value}]})

    end = await galaxy.expect("task_end", session_id=session_id)
    assert end["result"][0]["result"] == value
    assert (await cluster.c.session(session_id))["result"][0]["result"] == value


async def test_a_registration_whose_profile_is_nonsense_is_taken_as_it_is(cluster: Cluster, guests: Guests) -> None:
    profiles: list[object] = [
        {"platform": 7, "system_info": "none"},
        {"platform": "x" * 10_000, "system_info": {"supported_features": ["a,b", 7, "\n", "ok", "x" * 1_000] * 100}},
        {"system_info": {"supported_features": {"a": 1}, "platform": ["linux"]}},
    ]
    for profile in profiles:
        device = UfoDevice(cluster.a.ws_url, unique("odd"))
        async with device:
            await device.send({**device.registration().model_dump(), "metadata": profile})
            await device.expect("heartbeat", status="ok")
            listed = (await cluster.b.get(f"/api/clients/{device.client_id}")).json()
            assert len(listed["platform"]) <= 32
            assert set(listed["features"]) <= {"ok"}


async def test_odd_requests_of_an_orchestrator_are_refused_in_words(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)
    odd: list[Frame] = [
        {"request": ""},
        {"request": " \n"},
        {"request": None},
        {"metadata": {"commands": "rm"}},
        {"metadata": {"commands": [{"tool": "x"}]}},
        {"metadata": {"commands": [ECHO] * 257}},
        {"metadata": {"commands": [ECHO], "planner": "guess"}},
        {"metadata": {"commands": [ECHO], "timeout_s": -1}},
        {"metadata": {"commands": [ECHO], "timeout_s": "soon"}},
        {"metadata": {"commands": [ECHO], "timeout_s": 1e300}},
    ]
    for number, changes in enumerate(odd):
        session_id = await galaxy.task(number=number, **changes)
        assert (await galaxy.expect("error", session_id=session_id))["error"], changes
    await device.still_served()
    assert device.count("task") == 0


# -- silence ---------------------------------------------------------------------------------------------------------
async def test_a_socket_that_does_not_register_in_time_is_told_so_and_closed(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1, register_timeout_s=1)
    socket = await guests.socket(cluster.a)

    error = await socket.expect("error")
    closed = await socket.until_closed()

    assert "No registration within" in error["error"]
    assert closed.code == 4001


async def test_a_socket_that_goes_before_it_registered_leaves_nothing(cluster: Cluster, guests: Guests) -> None:
    before = await cluster.a.online()
    for _ in range(20):
        socket = await guests.socket(cluster.a)
        await socket.abort()

    async def nobody_new() -> bool:
        # Who was there before may go: devices of the test before this one.
        return set(await cluster.b.online()) <= set(before)

    await eventually(nobody_new, "nobody is online who was not before")


async def test_a_registration_of_a_peer_that_is_gone_before_the_answer_is_taken_back(
    cluster: Cluster, guests: Guests
) -> None:
    names = [unique("brief") for _ in range(30)]
    for name in names:
        socket = await guests.socket(cluster.a, name)
        await socket.send(UfoDevice("", name).registration())
        await socket.abort()

    async def gone() -> bool:
        return not set(names) & set(await cluster.b.online())

    await eventually(gone, "nobody of them is online")
    for name in names[:5]:
        await guests.device(cluster.c, name)
    galaxy = UfoConstellation(cluster.a.ws_url, unique("galaxy"), names[-1])
    async with galaxy:
        await galaxy.send(galaxy.registration())
        assert "is not connected" in (await galaxy.expect("error"))["error"]
