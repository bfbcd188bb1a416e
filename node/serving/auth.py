"""UFO's single key: off unless a key is set; then every REST call and every socket must show it.

Compared in constant time. A browser or UFO's client cannot set a header on a WebSocket, so there `?token=` is accepted
too; the logs never show it.
"""

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import parse_qs

from pydantic import SecretStr

__all__ = ["Auth"]

HEADER = b"x-api-key"


class Auth:
    """Checks the key of a request."""

    def __init__(self, api_key: SecretStr | None) -> None:
        self._key = api_key.get_secret_value().encode() if api_key is not None else None

    @property
    def required(self) -> bool:
        """Whether a key is set."""
        return self._key is not None

    @property
    def credential(self) -> str:
        """What a client that was let in has shown, as a hash: '' if nothing had to be shown.

        One key for all shows only that a client is one of ours; keys of their own will show which.
        """
        return hashlib.sha256(self._key).hexdigest()[:32] if self._key is not None else ""

    def allows(self, headers: Iterable[tuple[bytes, bytes]], query_string: bytes = b"") -> bool:
        """Whether the request shows the key: in `X-API-Key`, or, if `query_string` is given, as `token`."""
        if self._key is None:
            return True
        shown = [value for name, value in headers if name.lower() == HEADER]
        if query_string:
            shown += [t.encode("utf-8", "surrogateescape") for t in _tokens(query_string)]
        # Every candidate is compared, so that the time does not tell which one was right.
        return sum(hmac.compare_digest(s, self._key) for s in shown) > 0

    def scoped(self, name: str) -> str:
        """`name`, chosen by whoever shows the key, as it may be stored: each key has names of its own."""
        return hmac.new(self._key or b"", name.encode(), hashlib.sha256).hexdigest()


def _tokens(query_string: bytes) -> list[str]:
    try:
        return parse_qs(query_string.decode("latin-1"), max_num_fields=20, encoding="utf-8").get("token", [])
    except ValueError:
        return []
