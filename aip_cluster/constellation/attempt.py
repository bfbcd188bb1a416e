"""One attempt at a task: sent, waited for, and its end made out even when the connection does not last.

The cluster's record of the session decides, read over REST: the message that a task has failed does not say whether
the device was lost or the time was up, and a socket that breaks says nothing at all. An attempt ends as `unknown`
only when the cluster does not answer for `SILENCE_S`; in every other case the session is over when the attempt is.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from aip_cluster.constellation.client import GRACE_S, ConstellationClient, TaskResult
from aip_cluster.constellation.errors import (
    ConnectionLost,
    ConstellationError,
    RegistrationRefused,
    RequestFailed,
    TaskRefused,
    TaskTimeout,
)
from aip_cluster.constellation.records import Ending, Outcome

__all__ = ["Order", "carry_out"]

logger = logging.getLogger(__name__)

# How often a session is looked at whose socket is gone.
LOOK_S = 1.0
# How long a session may stay unknown to the cluster before it counts as never sent: frames may be under way.
UNKNOWN_S = 2.0
SILENCE_S = 60.0
CANCEL_S = 15.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to send, references replaced."""

    device_id: str
    session_id: str
    task_name: str
    request: str
    commands: list[dict[str, Any]] | None = None
    planner: str | None = None
    metadata: dict[str, Any] | None = None
    timeout_s: float | None = None


async def carry_out(client: ConstellationClient, order: Order, stop: asyncio.Event) -> Outcome:
    """Run an order to its end; once `stop` is set, end it in the cluster instead.

    Raises nothing of its own. Cancelling forgets the session on this side and leaves it running in the cluster.
    """
    running = asyncio.create_task(_run(client, order), name=f"attempt {order.session_id}")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        # First of all nothing more may be sent, or the session could begin after it was cancelled.
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return await _end_session(client, order.session_id, "the run was cancelled")
    finally:
        running.cancel()
        stopping.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


async def _run(client: ConstellationClient, order: Order) -> Outcome:
    try:
        result = await client.run(
            order.device_id,
            order.request,
            commands=order.commands,
            task_name=order.task_name,
            timeout_s=order.timeout_s,
            planner=order.planner,
            metadata=order.metadata,
            session_id=order.session_id,
        )
    except RegistrationRefused as exc:
        return Outcome(Ending.NOT_STARTED, error=str(exc))
    except (TaskRefused, ValueError) as exc:
        return Outcome(Ending.FAILED, error=str(exc))
    except ConnectionLost as exc:
        logger.info("the socket for %r broke; following its task over REST", order.device_id)
        return await _follow(client, order, str(exc))
    except TaskTimeout as exc:
        ended = await _end_session(client, order.session_id, str(exc))
        if ended.ending is Ending.CANCELLED:
            return Outcome(Ending.TIMEOUT, error=str(exc), maybe_ran=ended.maybe_ran)
        return ended
    return await _judge(client, result)


async def _judge(client: ConstellationClient, end: TaskResult) -> Outcome:
    """What an end means. Why a task failed is what the cluster stored, or, if that cannot be read, what it said."""
    if end.succeeded:
        return Outcome(Ending.COMPLETED, result=end.result)
    try:
        stored = _outcome_of(await client.session(end.session_id))
        if stored is not None:
            return stored
    except RequestFailed as exc:
        if exc.status_code != 404:
            logger.info("how %r ended cannot be read: %s", end.session_id, exc)
    except ConnectionLost as exc:
        logger.info("how %r ended cannot be read: %s", end.session_id, exc)
    error = end.error or "failed without a reason"
    if error.startswith("Target device ") and error.endswith("is not connected"):
        return Outcome(Ending.NOT_STARTED, error=error)
    if _tells_of_loss(error):
        return Outcome(Ending.DEVICE_LOST, error=error, maybe_ran=True)
    return Outcome(Ending.FAILED, result=end.result, error=error)


async def _follow(client: ConstellationClient, order: Order, reason: str) -> Outcome:
    """Wait over REST for the end of a session whose socket broke, if it ever was one."""
    began = heard = time.monotonic()
    while True:
        try:
            outcome = _outcome_of(await client.session(order.session_id))
            heard = time.monotonic()
            if outcome is not None:
                return outcome
            if order.timeout_s is not None and heard - began > order.timeout_s + GRACE_S:
                return await _end_session(client, order.session_id, f"no end within {order.timeout_s:g} s")
        except (ConnectionLost, RequestFailed) as exc:
            now = time.monotonic()
            if isinstance(exc, RequestFailed) and exc.status_code == 404:
                heard = now
                if now - began > UNKNOWN_S:
                    return Outcome(Ending.NOT_STARTED, error=reason)
            elif now - heard > SILENCE_S:
                error = f"{reason}; and the cluster has not answered for {SILENCE_S:g} s: {exc}"
                return Outcome(Ending.UNKNOWN, error=error, maybe_ran=True)
        await asyncio.sleep(LOOK_S)


async def _end_session(client: ConstellationClient, session_id: str, reason: str) -> Outcome:
    """Cancel a session in the cluster, or say how it ended if it was over. Takes `CANCEL_S` at most."""
    began = time.monotonic()
    trouble: ConstellationError | TimeoutError = TimeoutError("no answer")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_S):
            while True:
                try:
                    answer = await client.cancel(session_id)
                    if answer.get("cancelled") is False:
                        outcome = _outcome_of(await client.session(session_id))
                        if outcome is not None:
                            return outcome
                    return Outcome(Ending.CANCELLED, error=reason, maybe_ran=True)
                except (ConnectionLost, RequestFailed) as exc:
                    trouble = exc
                    missing = isinstance(exc, RequestFailed) and exc.status_code == 404
                    if missing and time.monotonic() - began > UNKNOWN_S:
                        return Outcome(Ending.CANCELLED, error=reason)
                await asyncio.sleep(min(LOOK_S, 0.25))
    error = f"{reason}; it could not be cancelled on the device: {trouble}"
    return Outcome(Ending.UNKNOWN, error=error, maybe_ran=True)


def _outcome_of(session: dict[str, Any]) -> Outcome | None:
    """The end of a stored session, None while it has none."""
    error = session.get("error")
    error = error if isinstance(error, str) and error else None
    match session.get("state"):
        case "completed":
            return Outcome(Ending.COMPLETED, result=session.get("result"))
        case "failed":
            return Outcome(Ending.FAILED, result=session.get("result"), error=error or "failed without a reason")
        case "timed_out":
            return Outcome(Ending.TIMEOUT, result=session.get("result"), error=error or "timed out", maybe_ran=True)
        case "cancelled" if error is not None and _tells_of_loss(error):
            return Outcome(Ending.DEVICE_LOST, error=error, maybe_ran=True)
        case "cancelled":
            return Outcome(Ending.CANCELLED, error=error or "cancelled in the cluster", maybe_ran=True)
    return None


def _tells_of_loss(error: str) -> bool:
    """The protocol's sentence for a device that went away during a task."""
    return "device disconnected" in error
