"""`Idempotency-Key` on a dispatch: the same request sent again is the same dispatch, on whatever node it arrives.

The first request under a key claims it together with the ids of its attempt. Only an accepted dispatch is remembered,
and answered again as it was; a refusal (not online, too many, no planner) left nothing behind and frees the key, since
it may be otherwise the next time. When the outcome is not known, because Redis went away or the node died, the claim
keeps the attempt, and the repetition goes on with the same session id: it cannot become a second task. While a request
is at work, another under its key waits for up to 1 s, then gets 409 and `Retry-After`.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request

from aip_cluster.protocol import new_id
from aip_cluster.protocol.ids import now_ms
from node.api.context import Context
from node.serving.headers import headers_of
from node.serving.http_errors import ApiError
from node.sessions.dispatching import Attempt
from node.sessions.planners import PlannerRefused
from shared_state.errors import StateError, StateUnavailable, TooManySessions
from shared_state.idempotency import HOLD_MS, Answered, Busy, Mine
from shared_state.sessions import Ending, Session, SessionState

__all__ = ["KEY_HEADER", "REPLAYED_HEADER", "IdempotentDispatch", "KeyBusy", "key_of"]

log = logging.getLogger(__name__)

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
_HEADER = KEY_HEADER.lower().encode()
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
PATIENCE_S = 1.0
LOOK_AGAIN_S = 0.1
# Within the time that a holder has, with room for storing the outcome.
WORK_S = HOLD_MS / 1000 - 5.0


class KeyBusy(ApiError):
    """Another request under the key is at work."""

    def __init__(self) -> None:
        super().__init__(409, f"{KEY_HEADER}: a request under this key is at work", headers={"Retry-After": "1"})


def key_of(request: Request) -> str | None:
    """The key that the request came with. Raises ApiError 400, naming the header."""
    if _HEADER not in headers_of(request.scope):
        return None
    given = [value for name, value in request.scope["headers"] if name == _HEADER]
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise ApiError(400, f"{KEY_HEADER}: must be 1 to 255 visible ASCII characters, given once")
    return str(given[0], "ascii")


class IdempotentDispatch:
    """One request under a key: `body` is what it asks for, `send(attempt=…)` dispatches it, `say` writes the answer."""

    def __init__(
        self,
        context: Context,
        key: str,
        body: dict[str, Any],
        *,
        client_id: str,
        timeout_s: float,
        send: Callable[..., Awaitable[Session]],
        say: Callable[[Session], bytes],
    ) -> None:
        self._state = context.state
        self._service = context.service
        self._name = context.auth.scoped(key)
        # By meaning: a client that writes its fields in another order asks for the same.
        self._fingerprint = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._send = send
        self._say = say
        self._holder = new_id()

    async def run(self) -> tuple[Answered, bool]:
        """The answer, and whether it was given before.

        Raises what `send` raises, KeyOfAnotherRequest, KeyBusy and StateUnavailable. Cancelled in its midst, the
        claim stands until the holder's time is over.
        """
        give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            fresh = _written(Attempt.fresh(self._client_id))
            claim = await self._state.idempotency.claim(self._name, self._fingerprint, self._holder, fresh)
            match claim:
                case Answered():
                    return claim, True
                case Mine():
                    answered = await self._work(_read(claim.attempt), continued=claim.continued)
                    if answered is not None:
                        return answered, False
                case Busy():
                    session = await self._accepted(_read(claim.attempt))
                    if session is not None:
                        return self._answer(session), True
                    if asyncio.get_running_loop().time() >= give_up_at:
                        raise KeyBusy
                    await asyncio.sleep(LOOK_AGAIN_S)

    async def _work(self, attempt: Attempt, *, continued: bool) -> Answered | None:
        """As the holder. None if the attempt that was left is too old to go on with: then the key is free."""
        try:
            async with asyncio.timeout(WORK_S):
                session = await self._accepted(attempt) if continued else None
                if session is None and continued and self._outlived(attempt):
                    await self._state.idempotency.forget(self._name, self._holder)
                    return None
                session = session or await self._try(attempt, continued=continued)
        except TimeoutError:
            await self._quietly(self._state.idempotency.give_up(self._name, self._holder))
            raise StateUnavailable(
                "the dispatch took too long; repeat the request with the same key to continue it"
            ) from None
        except (StateUnavailable, TooManySessions) as exc:
            if isinstance(exc, StateUnavailable) or continued:
                await self._quietly(self._state.idempotency.give_up(self._name, self._holder))
            else:
                await self._quietly(self._state.idempotency.forget(self._name, self._holder))
            raise
        except (StateError, PlannerRefused):
            await self._quietly(self._state.idempotency.forget(self._name, self._holder))
            raise
        answered = self._answer(session)
        await self._quietly(self._state.idempotency.answer(self._name, self._holder, answered))
        return answered

    async def _try(self, attempt: Attempt, *, continued: bool) -> Session:
        try:
            return await self._send(attempt=attempt)
        except (StateUnavailable, TooManySessions):
            # Neither says anything about what the earlier try left.
            raise
        except (StateError, PlannerRefused) as exc:
            left = await self._state.sessions.find(attempt.session_id) if continued else None
            if left is None:
                raise
            # The earlier try had stored it, and perhaps sent it: a second session under the key would be a second
            # task. So this one is the answer, and its end says why.
            ending = Ending(left.session_id, SessionState.CANCELLED, error=str(exc))
            await self._service.end(ending, stop_device=True)
            return left

    async def _accepted(self, attempt: Attempt) -> Session | None:
        """The session of an attempt that has reached a node, or ended: the dispatch was accepted, whoever said so."""
        session = await self._service.current(await self._state.sessions.find(attempt.session_id))
        return session if session is not None and session.state is not SessionState.CREATED else None

    def _outlived(self, attempt: Attempt) -> bool:
        return attempt.created_ms + self._timeout_s * 1000 <= now_ms()

    def _answer(self, session: Session) -> Answered:
        return Answered(200, self._say(session))

    @staticmethod
    async def _quietly(call: Awaitable[bool]) -> None:
        try:
            await call
        except StateError as exc:
            # Then the claim runs out by itself, and a repetition finds the session.
            log.warning("cannot store the outcome of an Idempotency-Key", extra={"reason": str(exc)})


def _written(attempt: Attempt) -> bytes:
    return orjson.dumps([attempt.session_id, attempt.token, attempt.created_ms])


def _read(raw: bytes) -> Attempt:
    session_id, token, created_ms = orjson.loads(raw)
    return Attempt(session_id, token, created_ms, given_id=False)
