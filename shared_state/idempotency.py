"""Requests that may be repeated: what was begun, and answered, under a key that its sender chose.

A claim holds the fingerprint of the request, the ids of the one attempt that it stands for, and, once there is one, the
answer. One holder at a time works on it. A holder that dies, or that cannot tell how far it came, leaves the attempt
behind, and whoever repeats the request goes on with that same attempt: nothing is begun twice. Until a dead holder's
time is over, and that is bounded, a repetition finds the claim busy. When Redis is away every call raises
StateUnavailable; when Redis loses its data, keys are forgotten with all else.
"""

from dataclasses import dataclass

from shared_state.errors import KeyOfAnotherRequest
from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["HOLD_MS", "Answered", "Busy", "Idempotency", "Mine"]

HOLD_MS = 15_000


@dataclass(frozen=True, slots=True)
class Mine:
    """The caller is the holder. `attempt` is its own, or, if `continued`, the one that an earlier holder left."""

    attempt: bytes
    continued: bool


@dataclass(frozen=True, slots=True)
class Busy:
    """Another holder is at work on `attempt`; in `left_ms` at the latest it may be taken over."""

    attempt: bytes
    left_ms: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer that was given."""

    status: int
    body: bytes


class Idempotency:
    """The claims of the cluster. `name` is what a key comes to once it is scoped: hexadecimal, never the key itself."""

    def __init__(self, connection: Connection, keys: Keys, *, ttl_s: int) -> None:
        self._redis = connection
        self._keys = keys
        self._ttl_ms = ttl_s * 1000

    async def claim(self, name: str, fingerprint: str, holder: str, attempt: bytes) -> Mine | Busy | Answered:
        """Become the holder, or learn what stands. Safe to repeat with the same `holder`.

        The holder has 15 s; it calls `answer`, `give_up` or `forget` before. Raises KeyOfAnotherRequest if the key
        was used with another request, or StateUnavailable.
        """
        reply = await self._redis.script(
            "idempotency_claim", [self._keys.idempotency(name)], [fingerprint, holder, HOLD_MS, self._ttl_ms, attempt]
        )
        match reply[0]:
            case b"mine":
                return Mine(reply[1], continued=reply[1] != attempt)
            case b"busy":
                return Busy(reply[1], int(reply[2]))
            case b"done":
                return Answered(int(reply[1]), reply[2])
        raise KeyOfAnotherRequest("Idempotency-Key: the key was used with another request")

    async def answer(self, name: str, holder: str, answered: Answered) -> bool:
        """Keep the answer for whoever asks again. False if the claim is not the holder's (any more)."""
        args: list[str | bytes | int] = [holder, answered.status, answered.body, self._ttl_ms]
        return bool(await self._redis.script("idempotency_answer", [self._keys.idempotency(name)], args))

    async def give_up(self, name: str, holder: str) -> bool:
        """How far the attempt came is not known: let a repetition go on with it at once."""
        return bool(await self._redis.script("idempotency_yield", [self._keys.idempotency(name)], [holder]))

    async def forget(self, name: str, holder: str) -> bool:
        """The request was refused and left nothing: the key is free again."""
        return bool(await self._redis.script("idempotency_forget", [self._keys.idempotency(name)], [holder]))
