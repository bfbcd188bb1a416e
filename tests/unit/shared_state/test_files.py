"""Files of sessions: in pieces, verified, and seen only when they are whole."""

import hashlib

import pytest

from shared_state import State, files
from shared_state.files import FileInfo, FileMismatch, TooManyFiles
from tests.support.backends import Backend, keys_under

SID = "s1"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", 10)


async def _store(
    state: State, name: str, data: bytes, transfer_id: str = "t1", checksum: str | None = None
) -> FileInfo:
    upload = state.files.upload(SID, name, transfer_id)
    for start in range(0, len(data), 7):
        await upload.write(data[start : start + 7])
    return await upload.commit(stored_ms=1, checksum=checksum)


async def _pieces(state: State) -> list[bytes]:
    return [key for key in await keys_under(state.connection, state.keys.prefix) if b":chunk:" in key]


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 95])
async def test_a_file_comes_back_as_it_went_in(state: State, size: int) -> None:
    data = bytes(i % 256 for i in range(size))
    info = await _store(state, "a.bin", data)
    assert (info.name, info.size, info.sha256) == ("a.bin", size, hashlib.sha256(data).hexdigest())
    assert await state.files.find(SID, "a.bin") == info
    assert b"".join([piece async for piece in state.files.read(SID, info)]) == data


@pytest.mark.parametrize("upper", [False, True])
async def test_a_checksum_of_either_kind_is_verified(state: State, upper: bool) -> None:
    data = b"x" * 33
    for number, digest in enumerate((hashlib.md5(data, usedforsecurity=False), hashlib.sha256(data))):
        text = digest.hexdigest().upper() if upper else digest.hexdigest()
        await _store(state, f"f{number}", data, f"t{number}", text)
    assert [f.name for f in await state.files.list(SID)] == ["f0", "f1"]


@pytest.mark.parametrize("checksum", ["0" * 32, "0" * 64, "", "x"])
async def test_a_file_that_is_not_what_was_announced_leaves_nothing(state: State, checksum: str) -> None:
    with pytest.raises(FileMismatch, match="checksum of 'f'"):
        await _store(state, "f", b"x" * 33, checksum=checksum)
    assert await state.files.list(SID) == []
    assert await _pieces(state) == []


async def test_a_file_is_not_seen_before_it_is_whole_and_aborting_removes_it(state: State) -> None:
    upload = state.files.upload(SID, "f", "t1")
    await upload.write(b"x" * 25)
    assert await state.files.find(SID, "f") is None
    assert len(await _pieces(state)) == 2
    await upload.abort()
    await upload.abort()
    assert await _pieces(state) == []


async def test_a_file_of_the_same_name_is_replaced_and_the_old_pieces_go(state: State) -> None:
    await _store(state, "f", b"x" * 95, "t1")
    newer = await _store(state, "f", b"y" * 15, "t2")
    assert await state.files.list(SID) == [newer]
    assert len(await _pieces(state)) == 2


async def test_delivery_is_noted_unless_the_file_was_replaced_meanwhile(state: State) -> None:
    await _store(state, "f", b"x", "t1")
    await state.files.mark_delivered(SID, "f", "t1", "disk full")
    found = await state.files.find(SID, "f")
    assert found is not None
    assert (found.delivered, found.error) == (False, "disk full")
    newer = await _store(state, "f", b"y", "t2")
    await state.files.mark_delivered(SID, "f", "t1", None)
    assert await state.files.find(SID, "f") == newer
    await state.files.mark_delivered(SID, "f", "t2", None)
    found = await state.files.find(SID, "f")
    assert found is not None
    assert found.delivered


async def test_a_session_has_a_bounded_number_of_files(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_BOUND", 2)
    for name in ("a", "b", "a"):
        await _store(state, name, b"x", f"t-{name}")
    with pytest.raises(TooManyFiles, match="may have 2 files"):
        await _store(state, "c", b"x" * 25, "t-c")
    assert [f.name for f in await state.files.list(SID)] == ["a", "b"]
    assert len(await _pieces(state)) == 2


async def test_a_piece_that_lived_out_its_time_is_noticed(state: State) -> None:
    info = await _store(state, "f", b"x" * 25)
    await state.connection.command("DEL", state.keys.session_chunk(SID, "t1", 1))
    with pytest.raises(FileMismatch, match="'f' is not stored any more"):
        async for _ in state.files.read(SID, info):
            pass


async def test_pieces_live_shortly_while_they_arrive_and_as_results_then(backend: Backend) -> None:
    state = backend.state(result_ttl_s=50_000)
    upload = state.files.upload(SID, "f", "t1")
    await upload.write(b"x" * 25)
    key = state.keys.session_chunk(SID, "t1", 0)
    assert 0 < await state.connection.command("PTTL", key) <= 3_600_000
    await upload.commit(stored_ms=1)
    for kept in (key, state.keys.session_chunk(SID, "t1", 2), state.keys.session_files(SID)):
        assert 3_600_000 < await state.connection.command("PTTL", kept) <= 50_000_000
