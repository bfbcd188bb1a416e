"""Code written after UFO's documents of its REST interface works: it looks at `status`, whatever was answered."""

from node.app import Node
from tests.support.asgi import Device, rest

TASK = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "t"}]}


async def test_an_unknown_task_has_a_status_beside_the_detail(node: Node) -> None:
    async with rest(node) as api:
        answer = await api.get("/api/task_result/nobody-asked-for-this")
    assert answer.status_code == 404
    assert answer.json()["status"] == "not_found"
    assert answer.json()["detail"].startswith("Unknown task")


async def test_the_polling_loop_of_the_documents_goes_from_pending_to_done(node: Node) -> None:
    async with Device(node) as device, rest(node) as api:
        dispatched = (await api.post("/api/dispatch", json=TASK)).json()
        assert dispatched["status"] == "dispatched"
        url = f"/api/task_result/{dispatched['task_name']}"
        assert (await api.get(url)).json() == {"status": "pending"}
        command, _ = await device.next_commands()
        device.send(type="error", session_id=command.session_id, error="broken", client_id="device-1")
        ended = (await api.get(url, params={"wait": "30"})).json()
    assert ended["status"] == "done"
    assert ended["state"] == "failed"
