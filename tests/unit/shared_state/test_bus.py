"""The bus: frames in order, wake-ups for ends, and no gap that goes unnoticed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared_state import State
from shared_state.bus import Bus
from shared_state.errors import SessionNotFound, StateUnavailable
from shared_state.sessions import SessionState
from tests.support.backends import Backend
from tests.support.records import a_session, end_session, publish
from tests.support.redis_server import RedisServer
from tests.support.wait import PATIENCE_S, until


class Ear:
    """Listens as `node_id`, and remembers."""

    def __init__(self, state: State, node_id: str) -> None:
        self.bus: Bus = state.bus(node_id)
        self.frames: list[tuple[bytes, bytes]] = []
        self.gaps = 0

    async def start(self) -> None:
        await self.bus.start(on_frame=self._on_frame, on_gap=self._on_gap, wait_s=PATIENCE_S)
        await until(lambda: self.gaps == 1, "the subscription stands")

    def _on_frame(self, kind: bytes, rest: bytes) -> None:
        self.frames.append((kind, rest))
        if kind == b"bad":
            raise ValueError("a frame that its reader cannot handle")

    async def _on_gap(self) -> None:
        self.gaps += 1


@pytest.fixture
async def ear(state: State) -> AsyncIterator[Ear]:
    ear = Ear(state, "node-a")
    await ear.start()
    yield ear
    await ear.bus.close()


async def _drop_subscriptions(state: State) -> None:
    await state.connection.command("CLIENT", "KILL", "TYPE", "pubsub")


async def test_a_frame_is_heard_by_the_node_that_it_is_for(state: State, ear: Ear) -> None:
    assert await publish(state, "node-a", b"ended\ns1") == 1
    assert await publish(state, "node-c", b"ended\ns1") == 0
    await until(lambda: ear.frames, "the frame is heard")
    assert ear.frames == [(b"ended", b"s1")]


async def test_frames_arrive_in_order(state: State, ear: Ear) -> None:
    for i in range(200):
        await publish(state, "node-a", b"ended\ns%d" % i)
    await until(lambda: len(ear.frames) == 200, "all frames are heard")
    assert [rest for _, rest in ear.frames] == [b"s%d" % i for i in range(200)]


async def test_a_frame_that_cannot_be_handled_does_not_stop_the_bus(
    state: State, ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(state, "node-a", b"bad\nx")
    await publish(state, "node-a", b"")
    await publish(state, "node-a", b"ended\ns1")
    await until(lambda: len(ear.frames) == 3, "the frames behind it are heard")
    assert ear.frames[1:] == [(b"", b""), (b"ended", b"s1")]
    assert "cannot handle a frame" in caplog.text


async def test_the_bus_says_whether_its_subscription_stands(state: State) -> None:
    ear = Ear(state, "node-a")
    stands = [ear.bus.subscribed]
    await ear.start()
    stands.append(ear.bus.subscribed)
    await ear.bus.close()
    stands.append(ear.bus.subscribed)
    assert stands == [False, True, False]


async def test_a_closed_bus_hears_nothing(real_backend: Backend) -> None:
    state = real_backend.state()
    ear = Ear(state, "node-a")
    await ear.start()
    await ear.bus.close()
    assert await publish(state, "node-a", b"ended\ns1") == 0


async def test_closing_twice_is_safe(state: State) -> None:
    ear = Ear(state, "node-a")
    await ear.bus.close()
    await ear.start()
    await ear.bus.close()
    await ear.bus.close()


async def test_a_watcher_is_woken_by_the_end(state: State, ear: Ear) -> None:
    session = a_session()
    await state.sessions.create(session)
    assert await state.sessions.watch(session.session_id, "node-a") is SessionState.CREATED
    assert await state.sessions.watch(session.session_id, "node-a") is SessionState.CREATED
    await end_session(state, session.session_id, SessionState.COMPLETED)
    await publish(state, "node-a", b"ended\nlast")
    await until(lambda: ear.frames and ear.frames[-1][1] == b"last", "all frames are heard")
    assert ear.frames[:-1] == [(b"ended", session.session_id.encode())], "once, however often it asked"


async def test_a_follower_is_woken_by_every_event_and_a_watcher_only_by_the_end(state: State, ear: Ear) -> None:
    watcher = Ear(state, "node-b")
    await watcher.start()
    session = a_session()
    await state.sessions.create(session)
    await state.sessions.watch(session.session_id, "node-a", events=True)
    await state.sessions.watch(session.session_id, "node-b")
    await state.sessions.advance(session.session_id, SessionState.RUNNING, event={"event": "x"})
    await state.sessions.advance(session.session_id, SessionState.RUNNING)
    await end_session(state, session.session_id, SessionState.COMPLETED)
    sid = session.session_id.encode()
    await until(lambda: len(ear.frames) == 2 and watcher.frames, "the frames are heard")
    await watcher.bus.close()
    assert ear.frames == [(b"event", sid), (b"event", sid)]
    assert watcher.frames == [(b"ended", sid)]


async def test_every_watching_node_is_woken(state: State, ear: Ear) -> None:
    others = [Ear(state, node_id) for node_id in ("node-0", "node-1", "node")]
    session = a_session()
    await state.sessions.create(session)
    # One id is the beginning of another: a look-up must not take one for the other.
    for node_id in ("node-a", "node-0", "node-1", "node"):
        await state.sessions.watch(session.session_id, node_id)
    for other in others:
        await other.start()
    await end_session(state, session.session_id, SessionState.FAILED)
    for each in (ear, *others):
        await until(lambda each=each: each.frames, "the frame is heard")
        await each.bus.close()
        assert each.frames == [(b"ended", session.session_id.encode())]


async def test_watching_what_has_ended_gives_its_state_and_no_wake_up(state: State, ear: Ear) -> None:
    session = a_session()
    await state.sessions.create(session)
    await end_session(state, session.session_id, SessionState.CANCELLED)
    assert await state.sessions.watch(session.session_id, "node-a") is SessionState.CANCELLED
    with pytest.raises(SessionNotFound):
        await state.sessions.watch("nothing", "node-a")
    assert ear.frames == []


async def test_a_broken_subscription_is_renewed_and_the_gap_is_told(real_backend: Backend) -> None:
    state = real_backend.state()
    ear = Ear(state, "node-a")
    await ear.start()
    for times in (2, 3):
        await _drop_subscriptions(state)
        await until(lambda times=times: ear.gaps == times and ear.bus.subscribed, "the gap is told")
        assert await publish(state, "node-a", b"ended\ns1") == 1
    await until(lambda: len(ear.frames) == 2, "frames are heard again")
    await ear.bus.close()


async def test_what_is_said_while_the_subscription_is_down_is_lost(real_backend: Backend) -> None:
    """That is what the gap callback is for."""
    state = real_backend.state()
    assert await publish(state, "node-a", b"ended\ns1") == 0
    ear = Ear(state, "node-a")
    await ear.start()
    await publish(state, "node-a", b"ended\ns2")
    await until(lambda: ear.frames, "the later frame is heard")
    assert ear.frames == [(b"ended", b"s2")]
    await ear.bus.close()


async def test_a_gap_callback_that_fails_does_not_end_the_bus(real_backend: Backend) -> None:
    state = real_backend.state()
    heard: list[bytes] = []
    gaps = 0

    async def failing_the_second_time() -> None:
        nonlocal gaps
        gaps += 1
        if gaps == 2:
            raise RuntimeError("looking for what was missed went wrong")

    bus = state.bus("node-a")
    await bus.start(on_frame=lambda _, rest: heard.append(rest), on_gap=failing_the_second_time, wait_s=PATIENCE_S)
    await until(lambda: gaps == 1, "the subscription stands")
    await _drop_subscriptions(state)
    await until(lambda: gaps >= 2, "the gap is told")

    async def heard_again() -> bool:
        await publish(state, "node-a", b"ended\ns1")
        return bool(heard)

    try:
        await until(heard_again, "frames are heard although a callback failed")
    finally:
        await bus.close()


async def test_the_bus_starts_without_redis_and_listens_once_it_is_there(own_redis: RedisServer) -> None:
    own_redis.stop()
    state = State(own_redis.url, prefix="t")
    ear = Ear(state, "node-a")
    await ear.bus.start(on_frame=ear._on_frame, on_gap=ear._on_gap, wait_s=0.1)
    assert not ear.bus.subscribed
    own_redis.start()
    await until(lambda: ear.gaps == 1 and ear.bus.subscribed, "the subscription stands")
    await publish(state, "node-a", b"ended\ns1")
    await until(lambda: ear.frames, "frames are heard")
    await ear.bus.close()
    await state.close()


async def test_the_bus_outlives_a_restart_of_redis(own_redis: RedisServer) -> None:
    state = State(own_redis.url, prefix="t")
    ear = Ear(state, "node-a")
    await ear.start()
    own_redis.kill()
    await until(lambda: not ear.bus.subscribed, "the loss is noticed")
    await asyncio.to_thread(own_redis.start)
    await until(lambda: ear.gaps == 2 and ear.bus.subscribed, "the subscription stands again")
    await ear.bus.close()
    await state.close()


async def test_listening_ends_when_it_is_closed_though_a_message_arrives_at_that_moment(state: State) -> None:
    """In whichever turn of the loop: `asyncio.wait_for` of Python 3.11 loses a cancellation in one of them."""
    for turns in range(40):
        channel = f"channel-{turns}"
        heard: list[bytes] = []
        subscription = await state.connection.subscribe(channel)
        subscription.listen(heard.append)
        await asyncio.sleep(0.001)
        saying = asyncio.create_task(state.connection.publish(channel, b"a message"))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await subscription.close()
        until_then = heard.copy()
        await asyncio.wait([saying])
        await asyncio.sleep(0.001)
        assert subscription.over.done()
        assert heard == until_then, f"closed {turns} turns after a message was said, it listens on"


async def test_what_arrives_before_anybody_listens_is_handed_on_first(state: State) -> None:
    subscription = await state.connection.subscribe("early")
    heard: list[bytes] = []
    for i in range(3):
        await state.connection.publish("early", b"%d" % i)
    await asyncio.sleep(0.01)
    subscription.listen(heard.append)
    await state.connection.publish("early", b"3")
    await until(lambda: len(heard) == 4, "all are heard")
    assert heard == [b"0", b"1", b"2", b"3"]
    assert not subscription.over.done()
    await subscription.close()


async def test_a_subscription_that_is_refused_says_so(own_redis: RedisServer) -> None:
    state = State(own_redis.url, prefix="t")
    await state.connection.command("ACL", "SETUSER", "default", "resetchannels")
    with pytest.raises(StateUnavailable, match="permission"):
        await state.connection.subscribe("c")
    await state.close()
