"""Quotas of bytes: what waits for absent devices, and files."""

import asyncio
import re
from dataclasses import replace

import pytest

from shared_state import State
from shared_state.errors import QuotaReached
from shared_state.files import PIECE_BYTES
from shared_state.keys import new_session_id
from shared_state.quotas import DEFAULT_BOUNDS, Bounds
from shared_state.sessions import Session
from tests.support.backends import Backend
from tests.support.records import a_session
from tests.support.wait import until

LARGE = "x" * 50_000
SID = "session-1"


def task(client_id: str, **fields: object) -> Session:
    session = a_session(new_session_id(client_id), client_id=client_id)
    return replace(session, request=LARGE, **fields)  # type: ignore[arg-type]


def state_with(backend: Backend, **bounds: int) -> State:
    return backend.state(bounds=replace(DEFAULT_BOUNDS, **bounds), result_ttl_s=60)


async def held(state: State) -> int:
    """What is counted for the cluster; it is nowhere where nothing is counted."""
    return int(await state.connection.command("HGET", state.keys.waiting_bytes_anywhere(), "all") or 0)


async def fill(state: State, client_id: str) -> list[str]:
    ids = []
    for _ in range(100):
        one = task(client_id)
        try:
            await state.waiting.hold(one)
        except QuotaReached:
            break
        ids.append(one.session_id)
    return ids


async def test_one_client_has_a_quota_and_others_have_theirs(backend: Backend) -> None:
    state = state_with(backend, queued_of_client=200_000)
    assert len(await fill(state, "gone")) == 3
    await state.waiting.hold(task("other"))
    with pytest.raises(QuotaReached, match=r"'gone' take 200000 bytes.*max_queued_bytes_per_client"):
        await state.waiting.hold(task("gone"))


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        ({"queued": 200_000}, "(max_queued_bytes)"),
        ({"queued_of_credential": 200_000}, "(max_queued_bytes_per_credential)"),
    ],
)
async def test_the_cluster_and_a_credential_have_a_quota_whatever_the_ids(
    backend: Backend, bounds: dict[str, int], names: str
) -> None:
    state = state_with(backend, **bounds)
    for number in range(3):
        await state.waiting.hold(task(f"gone-{number}"))
    with pytest.raises(QuotaReached, match=re.escape(names)):
        await state.waiting.hold(task("gone-3"))
    assert await held(state) <= 200_000
    # What was refused is not counted for its client either.
    of_client = (state.keys.waiting("gone-3"), state.keys.waiting_bytes("gone-3"))
    assert await state.connection.command("EXISTS", *of_client) == 0


async def test_another_credential_has_a_quota_of_its_own(backend: Backend) -> None:
    bounds = replace(DEFAULT_BOUNDS, queued_of_credential=60_000)
    one, two = (backend.state(bounds=bounds, credential=credential) for credential in ("a", "b"))
    await one.waiting.hold(task("gone"))
    with pytest.raises(QuotaReached):
        await one.waiting.hold(task("gone"))
    await two.waiting.hold(task("gone"))


async def test_many_at_once_pass_no_quota(backend: Backend) -> None:
    states = [state_with(backend, queued=500_000) for _ in range(3)]
    tries = [state.waiting.hold(task(f"gone-{n}")) for n in range(20) for state in states]
    refused = [r for r in await asyncio.gather(*tries, return_exceptions=True) if r is not None]
    assert all(isinstance(r, QuotaReached) for r in refused)
    assert len(tries) - len(refused) == 9
    assert await held(states[0]) <= 500_000


async def test_what_is_repeated_counts_once_and_what_is_freed_counts_no_more(backend: Backend) -> None:
    state = state_with(backend, queued_of_client=200_000)
    one = task("gone")
    await state.waiting.hold(one)
    once = await held(state)
    await state.waiting.hold(one)
    assert await held(state) == once > len(LARGE)
    for _ in range(2):
        await state.waiting.free("gone", [one.session_id])
    assert await held(state) == 0
    assert len(await fill(state, "gone")) == 3


async def test_what_nobody_frees_counts_no_more_once_its_record_is_gone(backend: Backend) -> None:
    """As after the death of a node: the entry ends by itself."""
    state = backend.state(bounds=replace(DEFAULT_BOUNDS, queued=60_000), result_ttl_s=1)
    short = task("gone")
    short = replace(short, deadline_ms=short.created_ms + 100)
    await state.waiting.hold(short)

    async def fits() -> bool:
        try:
            await state.waiting.hold(task("other"))
        except QuotaReached:
            return False
        return True

    assert not await fits()
    await until(fits, "it is counted no more")


async def upload(state: State, name: str, size: int) -> None:
    arriving = state.files.upload(SID, name, f"t-{name}")
    try:
        for start in range(0, size, PIECE_BYTES):
            await arriving.write(b"x" * min(PIECE_BYTES, size - start))
        await arriving.commit(stored_ms=1)
    except BaseException:
        await arriving.abort()
        raise


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        (Bounds(files=10 * PIECE_BYTES), "max_files_bytes)"),
        (Bounds(files_of_credential=10 * PIECE_BYTES), "max_files_bytes_per_credential)"),
    ],
)
async def test_files_have_a_quota_that_is_met_while_they_arrive(backend: Backend, bounds: Bounds, names: str) -> None:
    state = backend.state(bounds=bounds)
    await upload(state, "one", 4 * PIECE_BYTES + 1)
    large = state.files.upload(SID, "two", "t-two")
    for _ in range(5):
        await large.write(b"x" * PIECE_BYTES)
    with pytest.raises(QuotaReached, match=re.escape(names)):
        await large.write(b"x" * PIECE_BYTES)
    assert large.pieces == 5
    await large.abort()
    assert [f.name for f in await state.files.list(SID)] == ["one"]
    # What was given up, and what is replaced, counts no more.
    for _ in range(3):
        await upload(state, "three", 3 * PIECE_BYTES)
        await upload(state, "one", 2 * PIECE_BYTES)
    total = await state.connection.command("HGET", state.keys.file_bytes_anywhere(), "all")
    assert int(total) == 5 * PIECE_BYTES
