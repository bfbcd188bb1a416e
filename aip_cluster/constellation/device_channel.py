"""All that is said with the cluster about one device: tasks and questions, over one socket after another.

A run outlives its socket. When the socket breaks while runs are pending, another is opened at once, presenting the
token of the last registration; the cluster keeps what ended meanwhile and sends it after the registration. As an end
may have been on its way into the broken socket, and a task on its way out of it, every pending run is also looked up
over REST: one that has ended is over, one that never arrived is sent again under the same session id, which the
cluster runs once. Runs fail with `ConnectionLost` when no registration has succeeded for `MEND_S`, or when another
client has registered under this one's name.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aip_cluster.constellation.device_link import DeviceLink
from aip_cluster.constellation.errors import (
    ConnectionLost,
    ConstellationError,
    RegistrationRefused,
    RequestFailed,
    TaskRefused,
    TaskTimeout,
)
from aip_cluster.protocol import ClientMessageType, ServerMessage, ServerMessageType, TaskStatus, new_id
from aip_cluster.protocol.backoff import Backoff
from aip_cluster.protocol.session_states import TERMINAL
from aip_cluster.sockets import MOVE_SPREAD_S, MOVE_TO_ANOTHER_NODE, TAKEN_OVER, retry_after_s

__all__ = ["DeviceChannel"]

logger = logging.getLogger(__name__)

# No restart and no failover of a cluster lasts this long; runs whose own deadline is sooner end with that.
MEND_S = 60.0
MEND_CAP_S = 5.0
# How often a pending run is looked up after a reconnection until the cluster says what became of it.
LOOK_S = 1.0
LOOKS_AT_ONCE = 8
# An acknowledged task may be missing for a moment where Redis has just failed over; then it is lost.
UNKNOWN_LOOKS = 3


@dataclass(slots=True)
class _Run:
    """A task that somebody waits for."""

    session_id: str
    request: str
    task_name: str
    metadata: dict[str, Any]
    # The same however often the task is sent: the cluster knows a repetition by it, even after the end.
    request_id: str = field(default_factory=new_id)
    acknowledged: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: "asyncio.Future[ServerMessage]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class DeviceChannel:
    """The conversation about one device. `look` reads a session over REST, and raises RequestFailed or ConnectionLost.

    Belongs to one event loop; `close` ends everything that it started.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        device_id: str,
        *,
        api_key: str | None,
        heartbeat_s: float,
        look: Callable[[str], Awaitable[dict[str, Any]]],
    ) -> None:
        self._url = url
        self._client_id = client_id
        self._device_id = device_id
        self._api_key = api_key
        self._heartbeat_s = heartbeat_s
        self._look = look
        self._opening = asyncio.Lock()
        self._link: DeviceLink | None = None
        self._resume_token: str | None = None
        self._runs: dict[str, _Run] = {}
        self._informed: dict[str, asyncio.Future[ServerMessage]] = {}
        self._mending: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._closed = False

    # -- what is asked for -----------------------------------------------------------------------------------------
    async def run(
        self,
        session_id: str,
        request: str,
        *,
        task_name: str,
        metadata: dict[str, Any],
        acknowledge_s: float,
        timeout_s: float | None,
    ) -> ServerMessage:
        """Send a task and wait for its end, over as many sockets as it takes.

        Raises TaskRefused, RegistrationRefused or DeviceNotConnected (nothing was sent), ConnectionLost, or
        TaskTimeout if it is not acknowledged within `acknowledge_s` or has not ended within `timeout_s`. Cancelling
        forgets the task here; the server goes on with it.
        """
        if session_id in self._runs:
            raise ValueError(f"session {session_id!r} is running already")
        link = await self._open_link()
        run = self._runs[session_id] = _Run(session_id, request, task_name, metadata)
        try:
            await self._send_task(link, run)
            either: list[asyncio.Future[Any]] = [run.acknowledged, run.ended]
            await asyncio.wait(either, timeout=acknowledge_s, return_when=asyncio.FIRST_COMPLETED)
            if not run.acknowledged.done() and not run.ended.done():
                raise TaskTimeout(f"the task was not acknowledged within {acknowledge_s:g} s")
            await asyncio.wait([run.ended], timeout=timeout_s)
            if not run.ended.done():
                raise TaskTimeout(f"the task did not end within {timeout_s:g} s")
            return run.ended.result()
        finally:
            del self._runs[session_id]
            # Looked at here, so that an error nobody waits for any more is not reported as lost.
            if run.ended.done():
                run.ended.exception()

    async def device_info(self, timeout_s: float) -> Any:
        """What the server knows about the device. Raises RequestFailed or ConnectionLost. Cancelling is safe."""
        link = await self._open_link()
        request_id = new_id()
        answered = self._informed[request_id] = asyncio.get_running_loop().create_future()
        try:
            await link.send(ClientMessageType.DEVICE_INFO_REQUEST, request_id=request_id)
            await asyncio.wait([answered], timeout=timeout_s)
            if not answered.done():
                raise RequestFailed(f"no device information within {timeout_s:g} s")
            message = answered.result()
        finally:
            del self._informed[request_id]
            if answered.done():
                answered.exception()
        if message.status in {TaskStatus.ERROR, TaskStatus.FAILED} or message.error:
            raise RequestFailed(message.error or "the server has no information about the device")
        return message.result

    async def close(self, reason: str = "the client was closed") -> None:
        """Fail what waits, and close the socket with 1000. May be called again."""
        self._closed = True
        self._fail(reason)
        tasks = [task for task in (self._mending, self._settling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.close()

    # -- the socket ------------------------------------------------------------------------------------------------
    async def _open_link(self) -> DeviceLink:
        """The open link. Concurrent callers share one opening. Raises as `DeviceLink.open`; a server that refuses
        and names a time is asked again then."""
        async with self._opening:
            backoff, give_up = Backoff(), time.monotonic() + MEND_S
            while True:
                self._check_open()
                if self._link is not None and not self._link.closed:
                    return self._link
                try:
                    return await self._open_once()
                except ConnectionLost as exc:
                    least_s = retry_after_s(exc.__cause__) if exc.__cause__ is not None else None
                    if least_s is None or time.monotonic() + least_s > give_up:
                        raise
                    backoff.at_least(least_s)
                await asyncio.sleep(backoff.next_s())

    async def _open_once(self) -> DeviceLink:
        if self._link is not None:
            await self._link.close()
        link = await DeviceLink.open(
            self._url,
            self._client_id,
            self._device_id,
            api_key=self._api_key,
            resume_token=self._resume_token,
            heartbeat_s=self._heartbeat_s,
            on_message=self._dispatch,
            on_lost=self._on_lost,
        )
        try:
            self._check_open()
        except ConnectionLost:
            await link.close()
            raise
        self._link = link
        self._resume_token = link.resume_token
        if self._runs:
            settling = self._settle(link, list(self._runs.values()))
            self._settling = asyncio.create_task(settling, name=f"settle {self._client_id}")
        return link

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionLost("the client was closed")

    def _on_lost(self, link: DeviceLink, reason: str) -> None:
        if self._settling is not None:
            self._settling.cancel()
        for future in self._informed.values():
            _reject(future, ConnectionLost(reason))
        if link.close_code == TAKEN_OVER:
            logger.error("another client has registered as %r: two clients at work need two names", self._client_id)
            # With it we would take the name back, and so on for ever.
            self._resume_token = None
            self._fail(f"{reason}: another client uses this name")
        elif self._runs and (self._mending is None or self._mending.done()):
            self._mending = asyncio.create_task(self._mend(reason, link.close_code), name=f"mend {self._client_id}")

    async def _mend(self, reason: str, close_code: int | None) -> None:
        """Open another link, for as long as somebody waits, and `MEND_S` at most."""
        logger.info("%s; %d tasks wait for another connection", reason, len(self._runs))
        backoff, give_up = Backoff(cap_s=MEND_CAP_S), time.monotonic() + MEND_S
        if close_code in MOVE_TO_ANOTHER_NODE:
            backoff.spread(MOVE_SPREAD_S)
        while self._runs:
            await asyncio.sleep(backoff.next_s())
            try:
                await self._open_link()
                return
            except (ConnectionLost, RegistrationRefused) as exc:
                # Refused too may be for a moment: the device moves as well, or our own old socket is still believed.
                reason = str(exc)
            if time.monotonic() > give_up:
                self._fail(f"no connection for {self._device_id!r} within {MEND_S:g} s: {reason}")

    # -- what became of the runs -----------------------------------------------------------------------------------
    async def _settle(self, link: DeviceLink, runs: list[_Run]) -> None:
        gate = asyncio.Semaphore(LOOKS_AT_ONCE)
        await asyncio.gather(*(self._settle_run(link, run, gate) for run in runs))

    async def _settle_run(self, link: DeviceLink, run: _Run, gate: asyncio.Semaphore) -> None:
        unknown = 0
        while not run.ended.done() and not link.closed:
            try:
                async with gate:
                    session = await self._look(run.session_id)
            except RequestFailed as exc:
                if exc.status_code == 404 and not run.acknowledged.done():
                    await self._send_task(link, run)
                    return
                unknown += exc.status_code == 404
                if unknown == UNKNOWN_LOOKS:
                    _reject(run.ended, ConnectionLost("the cluster has lost the task"))
            except ConnectionLost:
                logger.debug("session %r cannot be read now", run.session_id)
            else:
                _resolve(run.acknowledged, None)
                if session.get("state") in TERMINAL:
                    _resolve(run.ended, _end_of(session))
                return
            await asyncio.sleep(LOOK_S)

    @staticmethod
    async def _send_task(link: DeviceLink, run: _Run) -> None:
        try:
            await link.send(
                ClientMessageType.TASK,
                status=TaskStatus.CONTINUE,
                session_id=run.session_id,
                request=run.request,
                task_name=run.task_name,
                metadata=run.metadata or None,
                request_id=run.request_id,
            )
        except ConnectionLost:
            # The run is among those that the next link settles.
            logger.debug("the socket broke under task %r", run.session_id)

    def _dispatch(self, message: ServerMessage) -> None:
        run = self._runs.get(message.session_id or "")
        asked = self._informed.get(message.response_id or "")
        match message.type:
            case ServerMessageType.HEARTBEAT if run is not None:
                _resolve(run.acknowledged, None)
            case ServerMessageType.TASK_END if run is not None:
                _resolve(run.ended, message)
            case ServerMessageType.DEVICE_INFO_RESPONSE if asked is not None:
                _resolve(asked, message)
            case ServerMessageType.ERROR if run is not None:
                _reject(run.ended, TaskRefused(message.error or "the server gave no reason"))
            case ServerMessageType.ERROR if asked is not None:
                _resolve(asked, message)
            case ServerMessageType.ERROR:
                logger.warning("the server reports for %r: %r", self._device_id, (message.error or "")[:300])
            case _:
                logger.debug("ignored a %s", message.type)

    def _fail(self, reason: str) -> None:
        for future in [*(run.ended for run in self._runs.values()), *self._informed.values()]:
            _reject(future, ConnectionLost(reason))


def _end_of(session: dict[str, Any]) -> ServerMessage:
    """The `task_end` that a stored session would have been told with."""
    completed = session.get("state") == "completed"
    error = session.get("error")
    return ServerMessage(
        type=ServerMessageType.TASK_END,
        status=TaskStatus.COMPLETED if completed else TaskStatus.FAILED,
        session_id=session.get("session_id"),
        result=session.get("result"),
        error=None if completed else str(error or f"Task {session.get('state')}"),
    )


def _resolve(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _reject(future: "asyncio.Future[Any]", error: ConstellationError) -> None:
    if not future.done():
        future.set_exception(error)
