"""A session belongs to whoever began it and to the device that runs it: nobody else reads, ends, or makes one."""

import pytest

from tests.integration.harness.cluster import Cluster, Json, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.peers import Frame
from tests.integration.harness.ufo import Message, Result, UfoConstellation, UfoDevice, now

pytestmark = pytest.mark.integration

ECHO = command("echo", text="hello")


def results_for(session_id: str, sender: UfoDevice, **fields: object) -> Message:
    """`command_results` that claim success."""
    return Message(
        type="command_results",
        status="completed",
        session_id=session_id,
        client_id=sender.client_id,
        action_results=[Result(status="success", result="forged")],
        timestamp=now(),
    ).model_copy(update=fields)


async def begun(cluster: Cluster, guests: Guests) -> tuple[UfoDevice, UfoConstellation, str, Frame]:
    """A session under way: its device, its owner, its id, and the command that waits for an answer."""
    device = await guests.device(cluster.a, answers=False)
    owner = await guests.constellation(cluster.b, device.client_id)
    session_id = await owner.task(ECHO)
    return device, owner, session_id, await device.expect("command", session_id=session_id)


async def ends_well(cluster: Cluster, device: UfoDevice, owner: UfoConstellation, commands: Frame) -> Json:
    """The session ends as its device says, and its owner is told; returns the session."""
    await device.answer(commands)
    end = await owner.expect("task_end", session_id=commands["session_id"])
    assert (end["status"], end["result"][0]["result"]) == ("completed", {"text": "hello"})
    session = await cluster.c.session(commands["session_id"])
    assert (session["state"], session["owner"]) == ("completed", owner.client_id)
    return session


@pytest.mark.parametrize("same_name", [False, True], ids=["under a new name", "under the same name"])
async def test_a_running_session_id_of_another_cannot_be_used_again_and_the_session_is_untouched(
    cluster: Cluster, guests: Guests, same_name: bool
) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)
    thief = await guests.constellation(cluster.b, device.client_id)
    task_name = f"galaxy/{owner.name}/step3" if same_name else f"galaxy/{thief.name}/x"

    await thief.task(command("echo", text="stolen"), session_id=session_id, task_name=task_name)
    await thief.still_served()

    refusals = [f for f in thief.heard if f["type"] in {"error", "task_end"} and f["session_id"] == session_id]
    # UFO's orchestrator only logs an error, and waits for an end.
    assert [f["type"] for f in refusals] == ["error", "task_end"]
    assert [f.get("result") for f in refusals] == [None, None]
    session = await ends_well(cluster, device, owner, commands)
    assert session["task_name"] == f"galaxy/{owner.name}/step3"
    assert (await cluster.c.done(session["task_name"]))["session_id"] == session_id
    await thief.still_served()
    assert [f for f in thief.heard if f.get("result")] == []
    assert device.count("command") == 1


@pytest.mark.parametrize("same_name", [False, True], ids=["under a new name", "under the same name"])
async def test_an_ended_session_id_of_another_replays_nothing_and_its_result_stays(
    cluster: Cluster, guests: Guests, same_name: bool
) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)
    session = await ends_well(cluster, device, owner, commands)
    thief = await guests.constellation(cluster.b, device.client_id)
    task_name = session["task_name"] if same_name else f"galaxy/{thief.name}/x"

    await thief.task(command("echo", text="stolen"), session_id=session_id, task_name=task_name)
    refusal = await thief.expect("error", session_id=session_id)
    await thief.still_served()

    assert "hello" not in str(refusal)
    assert [f for f in thief.heard if f.get("result")] == []
    assert await cluster.c.session(session_id) == session
    assert (await cluster.c.done(session["task_name"]))["session_id"] == session_id


async def test_an_orchestrator_that_repeats_its_own_running_task_changes_nothing(
    cluster: Cluster, guests: Guests
) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)

    await owner.task(ECHO)
    await owner.still_served()

    session = await ends_well(cluster, device, owner, commands)
    assert (await cluster.c.done(session["task_name"]))["session_id"] == session_id
    assert device.count("command") == 1


async def test_an_orchestrator_may_use_its_own_session_id_again_after_the_end(cluster: Cluster, guests: Guests) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)
    await ends_well(cluster, device, owner, commands)

    await owner.task(command("echo", text="again"))
    await device.answer(await device.expect("command"))
    end = await owner.expect("task_end", session_id=session_id)

    assert end["result"][0]["result"] == {"text": "again"}
    assert (await cluster.c.session(session_id))["result"][0]["result"] == {"text": "again"}


async def test_a_session_that_rest_began_is_nobody_elses(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    answer = await cluster.b.dispatch(device.client_id, ECHO)
    before = await cluster.b.done(answer["task_name"])
    thief = await guests.constellation(cluster.b, device.client_id)

    await thief.task(ECHO, session_id=answer["session_id"])

    assert "in use" in (await thief.expect("error", session_id=answer["session_id"]))["error"]
    assert await cluster.c.done(answer["task_name"]) == before


async def test_a_device_cannot_begin_a_task_under_the_session_id_of_another(cluster: Cluster, guests: Guests) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)
    attacker = await guests.device(cluster.a)

    await attacker.send(
        Message(
            type="task",
            status="continue",
            client_id=attacker.client_id,
            session_id=session_id,
            task_name=unique("mine"),
            request="attack",
            metadata={"commands": [ECHO]},
        )
    )

    assert "in use" in (await attacker.expect("error", session_id=session_id))["error"]
    assert attacker.count("task") == 0
    await ends_well(cluster, device, owner, commands)


async def test_results_for_a_session_that_nobody_began_create_none_and_block_nobody(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)
    squatted = [f"{galaxy.name}@task_{n}" for n in range(100)]

    for session_id in squatted:
        await device.send(results_for(session_id, device))
        await device.send(results_for(session_id, device, type="task_end"))
    await device.still_served()

    assert cluster.redis.key_names(f"*{galaxy.name}@task_*") == []
    assert await cluster.c.sessions_of(device.client_id) == []
    assert (await cluster.c.get(f"/api/sessions/{squatted[3]}")).status_code == 404
    session_id = await galaxy.task(ECHO, number=3)
    assert (await galaxy.expect("task_end", session_id=session_id))["status"] == "completed"


@pytest.mark.parametrize("where", ["on the same node", "on another node"])
@pytest.mark.parametrize("kind", ["command_results", "task_end"])
async def test_a_device_that_does_not_run_the_session_can_neither_answer_nor_end_it(
    cluster: Cluster, guests: Guests, where: str, kind: str
) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)
    attacker = await guests.device(cluster.a if where == "on the same node" else cluster.b)

    for status in ("continue", "completed", "failed"):
        for answered in (commands["response_id"], None):
            frame = results_for(session_id, attacker, type=kind, status=status, prev_response_id=answered)
            await attacker.send(frame)
            await attacker.send(frame.model_copy(update={"session_id": None}))
    await attacker.still_served()

    assert await cluster.c.state_of(session_id) == "running"
    await ends_well(cluster, device, owner, commands)


async def test_a_device_cannot_end_a_session_of_its_own_with_the_answer_to_another(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a, answers=False)
    first = await cluster.b.dispatch(device.client_id, command("echo", n=1))
    second = await cluster.b.dispatch(device.client_id, command("echo", n=2))
    commands = [await device.expect("command", session_id=s["session_id"]) for s in (first, second)]

    await device.answer_with(commands[0], [Result(status="success")], session_id=second["session_id"])
    await device.still_served()

    assert await cluster.c.state_of(first["session_id"]) == "running"
    assert await cluster.c.state_of(second["session_id"]) == "running"
    for i, frame in enumerate(commands):
        await device.answer(frame)
        done = await cluster.c.done((first, second)[i]["task_name"])
        assert done["result"][0]["result"] == {"n": i + 1}


async def test_an_orchestrator_cannot_answer_for_a_device(cluster: Cluster, guests: Guests) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)

    frame = Message(
        type="command_results",
        status="completed",
        client_type="constellation",
        session_id=session_id,
        client_id=owner.client_id,
        prev_response_id=commands["response_id"],
        action_results=[Result(status="success", result="forged")],
    )
    await owner.send(frame)
    await owner.send(frame.model_copy(update={"type": "task_end"}))
    await owner.still_served()

    assert await cluster.c.state_of(session_id) == "running"
    await ends_well(cluster, device, owner, commands)


async def test_the_end_of_one_task_is_told_on_the_socket_that_asked_not_on_the_newest(
    cluster: Cluster, guests: Guests
) -> None:
    device, owner, session_id, commands = await begun(cluster, guests)
    latecomers = [await guests.constellation(cluster.b, device.client_id) for _ in range(3)]
    latecomers.append(await guests.constellation(cluster.b))

    await ends_well(cluster, device, owner, commands)

    for peer in latecomers:
        await peer.still_served()
        assert [f for f in peer.heard if f.get("session_id")] == [], session_id
