"""Whom a proxy speaks for: what it says in `X-Forwarded-*`, believed of the addresses in `FORWARDED_ALLOW_IPS`.

uvicorn would look at every request. Only two want to know: sockets, whose peer is named in the log when it is turned
away, and the framework, for the address of a redirect.
"""

import os
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

__all__ = ["behind_proxies"]


def behind_proxies(app: Any) -> ASGIApp:
    """`app`, told of the client that the proxy names instead of the proxy."""
    # uvicorn's own variable, and its default.
    return cast(ASGIApp, ProxyHeadersMiddleware(app, os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")))
