"""What a socket waits with: in order, awake in time, and whole after a cancellation."""

import asyncio

import pytest

from node.serving.receive_queue import Gate, ReceiveQueue


async def _next(mailbox: ReceiveQueue[int]) -> int:
    while mailbox.empty():
        await mailbox.filled()
    return mailbox.take()


async def test_messages_come_out_in_the_order_in_which_they_came_in() -> None:
    mailbox: ReceiveQueue[int] = ReceiveQueue(asyncio.get_running_loop())
    for number in range(3):
        mailbox.put_nowait(number)
    assert [await _next(mailbox) for _ in range(3)] == [0, 1, 2]
    assert mailbox.empty()


async def test_a_reader_is_woken_by_a_message_and_by_each_that_follows() -> None:
    mailbox: ReceiveQueue[int] = ReceiveQueue(asyncio.get_running_loop())
    for number in range(2):
        reading = asyncio.create_task(_next(mailbox))
        await asyncio.sleep(0)
        mailbox.put_nowait(number)
        mailbox.put_nowait(number + 10)  # before the reader runs
        assert await reading == number
        assert mailbox.take() == number + 10


async def test_a_reader_that_gives_up_takes_no_message_along() -> None:
    mailbox: ReceiveQueue[int] = ReceiveQueue(asyncio.get_running_loop())
    reading = asyncio.create_task(_next(mailbox))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    mailbox.put_nowait(1)
    assert await _next(mailbox) == 1


async def test_nothing_is_taken_out_of_an_empty_mailbox() -> None:
    with pytest.raises(IndexError):
        ReceiveQueue[int](asyncio.get_running_loop()).take()


async def test_an_open_gate_holds_nobody_up() -> None:
    gate = Gate()
    assert gate.is_set()
    await asyncio.wait_for(gate.wait(), 1)


async def test_a_closed_gate_holds_everybody_until_it_opens() -> None:
    gate = Gate()
    gate.clear()
    gate.clear()
    waiting = [asyncio.create_task(gate.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not gate.is_set()
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    gate.set()
    gate.set()
    await waiting[1]
    assert gate.is_set()
    assert waiting[0].cancelled() or waiting[0].done()


async def test_a_gate_that_closes_again_at_once_holds_those_who_wait() -> None:
    gate = Gate()
    gate.clear()
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    gate.set()
    gate.clear()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    gate.set()
    await waiting
