"""How a configured server is reached: each kind as a function that opens a connection to it.

An `Opener` is called once per connection. It yields the client, and afterwards `Opened.reason` may say why the
connection ended. It raises what the transport raises, as a rule wrapped in exception groups.
"""

import importlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import mcp_types
from mcp import Client
from mcp.client.session import IncomingMessage, MessageHandlerFnT
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.shared._httpx_utils import create_mcp_http_client

from aip_cluster.device.servers.spec import BuiltinSpec, HttpSpec, PythonSpec, Spec, SpecError, StdioSpec
from aip_cluster.device.servers.stdio import StdioTransport

__all__ = ["Opened", "Opener", "in_process", "opener_for"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Opened:
    """A connection. `reason` says why its other end is gone, once it is and where that is known."""

    client: Client
    reason: Callable[[], str | None] = field(default=lambda: None)


# Called with what to call when the server says that its tools have changed, or is gone.
Opener = Callable[[Callable[[], None]], AbstractAsyncContextManager[Opened]]


def opener_for(spec: Spec, builtin: MCPServer[Any], *, key: str = "mcp_servers") -> Opener:
    """The way to the server of `spec`; `builtin` is the agent's own. Raises SpecError for a target that is none."""
    match spec:
        case BuiltinSpec():
            return in_process(builtin)
        case PythonSpec():
            return in_process(_load(spec, key))
        case StdioSpec():
            return _stdio(spec)
        case HttpSpec():
            return _http(spec)


def in_process(server: MCPServer[Any]) -> Opener:
    """A server inside this process."""

    @asynccontextmanager
    async def opened(poke: Callable[[], None]) -> AsyncIterator[Opened]:
        async with Client(server, message_handler=_on_message(poke), cache=None) as client:
            yield Opened(client)

    return opened


def _stdio(spec: StdioSpec) -> Opener:
    @asynccontextmanager
    async def opened(poke: Callable[[], None]) -> AsyncIterator[Opened]:
        transport = StdioTransport(
            spec.command,
            spec.args,
            env={name: value.get_secret_value() for name, value in spec.env.items()},
            cwd=spec.cwd,
            name=spec.namespace,
            on_end=poke,
        )
        try:
            async with Client(transport, message_handler=_on_message(poke), cache=None) as client:
                yield Opened(client, lambda: transport.reason)
        except OSError as exc:
            raise ConnectionError(f"{spec.command!r} cannot be started: {exc.strerror or exc}") from exc

    return opened


def _http(spec: HttpSpec) -> Opener:
    @asynccontextmanager
    async def opened(poke: Callable[[], None]) -> AsyncIterator[Opened]:
        headers = {name: value.get_secret_value() for name, value in spec.headers.items()}
        async with create_mcp_http_client(headers=headers) as http:
            transport = streamable_http_client(spec.url, http_client=http)
            async with Client(transport, message_handler=_on_message(poke), cache=None) as client:
                yield Opened(client)

    return opened


def _on_message(poke: Callable[[], None]) -> MessageHandlerFnT:
    async def handle(message: IncomingMessage) -> None:
        if isinstance(message, mcp_types.ToolListChangedNotification):
            poke()

    return handle


def _load(spec: PythonSpec, key: str) -> MCPServer[Any]:
    module_name, _, attribute = spec.target.partition(":")
    where = f"{key}.{spec.namespace}.target"
    try:
        module = importlib.import_module(module_name)
    except Exception as exc:
        logger.debug("importing %s failed", module_name, exc_info=exc)
        raise SpecError(where, f"{module_name!r} cannot be imported: {type(exc).__name__}: {exc}") from exc
    server = getattr(module, attribute, None)
    if not isinstance(server, MCPServer):
        raise SpecError(where, f"{spec.target!r} is no MCPServer but {type(server).__name__}")
    return server
