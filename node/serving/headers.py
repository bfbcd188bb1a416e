"""The headers of a request by name, read once for all who look at them."""

from starlette.types import Scope

__all__ = ["headers_of"]

_HEADERS = "aip.headers"


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name, in lower case; the values of one that was given more than once, with commas between them.

    (RFC 9110, section 5.3. A list is no host and no origin: whoever expects one value takes none of several.)
    """
    named: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if named is None:
        headers = scope["headers"]
        named = scope[_HEADERS] = dict(headers)
        if len(named) < len(headers):
            named.clear()
            for name, value in headers:
                named[name] = named[name] + b", " + value if name in named else value
    return named
