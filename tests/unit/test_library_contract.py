"""What the product touches of a library that the library does not document, and nothing besides.

A release of such a library may change any of these without saying so. `CONTRACT` has each with who uses it and why; the
tests say that each still has the shape that is relied on, and that nobody reaches for anything that is not listed. The
libraries have upper bounds in pyproject.toml for that reason. To use one more: add its line here, and a bound there.
"""

import ast
import asyncio
import inspect
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import pytest
import redis.asyncio as aioredis
import uvicorn
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.server import ServerProtocol

from node.serving import websocket_frames as frames
from node.serving.http_protocol import HttpProtocol
from node.serving.websocket_protocol import WebSocketProtocol

ROOT = Path(__file__).parents[2]
PRODUCT = ("node", "shared_state", "aip_cluster", "loadbalancer")
LIBRARIES = frozenset(
    {"uvicorn", "websockets", "starlette", "redis", "hiredis", "httptools", "pydantic", "prometheus_client"}
)
# Private names of the standard library that it documents.
DOCUMENTED = frozenset({"_exit", "_replace", "_asdict", "_fields", "_make"})


class Use(NamedTuple):
    """One undocumented attribute: of what, in which modules of ours, for what, and whether it is as we rely on it."""

    library: str
    attribute: str
    users: tuple[str, ...]
    why: str
    holds: Callable[[], bool]


def _config() -> uvicorn.Config:
    config = uvicorn.Config(Starlette(), log_config=None, http=HttpProtocol, timeout_keep_alive=7)
    config.load()
    return config


def _connection() -> AbstractConnection:
    return aioredis.Redis().connection_pool.make_connection()  # type: ignore[no-any-return, no-untyped-call]


def _named(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


_HTTP = ("node/serving/http_protocol.py",)
_SERVER = ("node/serving/server.py",)
_WIRE = ("shared_state/redis/wire.py",)
_CONSTRUCTED = ["config", "server_state", "app_state", "_loop"]

CONTRACT = (
    Use(
        "uvicorn",
        "http= (its constructor)",
        _HTTP,
        "uvicorn makes a protocol for each connection",
        lambda: _named(HttpToolsProtocol.__init__) == _named(HttpProtocol.__init__) == _CONSTRUCTED,
    ),
    Use(
        "uvicorn",
        "ws= (its constructor)",
        (*_HTTP, "node/serving/websocket_protocol.py"),
        "an upgraded connection is handed to it as uvicorn's own HTTP protocol hands it",
        lambda: _named(WebSocketsSansIOProtocol.__init__) == _named(WebSocketProtocol.__init__) == _CONSTRUCTED,
    ),
    Use(
        "websockets",
        "ServerProtocol.parser",
        ("node/serving/websocket_handshake.py",),
        "a generator that holds the object which holds it: closed, so that an answered handshake is freed at once",
        lambda: inspect.isgenerator(ServerProtocol().parser),
    ),
    Use(
        "websockets",
        "speedups.apply_mask()",
        ("node/serving/websocket_frames.py",),
        "unmasks what clients send; without it Python's own arithmetic does, several times as slow",
        lambda: frames.apply_mask(b"abcde", b"\x01\x02\x03\x04") == b"```" + b"`d",
    ),
    Use(
        "uvicorn",
        "protocol.shutdown()",
        _HTTP,
        "how a stopping server tells each connection",
        lambda: "connection.shutdown()" in inspect.getsource(uvicorn.Server.shutdown),
    ),
    Use(
        "uvicorn",
        "ServerState.connections, .tasks",
        (*_HTTP, *_SERVER, "node/serving/websocket_protocol.py"),
        "what a stop waits for, and how many connections there are",
        lambda: isinstance(ServerState().connections, set) and isinstance(ServerState().tasks, set),
    ),
    Use(
        "uvicorn",
        "ServerState.default_headers, .total_requests",
        (*_HTTP, "node/serving/websocket_protocol.py"),
        "the Date header, which uvicorn renews each second; the number of requests, by which it may stop",
        lambda: ServerState().default_headers == [] and ServerState().total_requests == 0,
    ),
    Use(
        "uvicorn",
        "Config.loaded_app, .timeout_keep_alive, .ws_protocol_class, .http_protocol_class",
        (*_HTTP, "node/serving/websocket_protocol.py"),
        "what a protocol serves, and with what",
        lambda: (
            callable(_config().loaded_app)
            and _config().timeout_keep_alive == 7
            and _config().http_protocol_class is HttpProtocol
            and isinstance(_config().ws_protocol_class, type)
        ),
    ),
    Use(
        "uvicorn",
        "Server.capture_signals()",
        (*_SERVER, "node/serving/internal_port.py"),
        "a signal begins a drain, not the end",
        lambda: _named(uvicorn.Server.capture_signals) == [] and "capture_signals" in inspect.getsource(uvicorn.Server),
    ),
    Use(
        "uvicorn",
        "Server.handle_exit(), .should_exit, .started",
        (*_SERVER, "node/serving/internal_port.py"),
        "the stop itself, once a drain is over",
        lambda: (
            # Read from the source: sse-starlette, which mcp brings along, puts a method of its own in this one's place.
            "def handle_exit(self, sig: int, frame:" in inspect.getsource(sys.modules["uvicorn.server"])
            and not uvicorn.Server(_config()).should_exit
            and not uvicorn.Server(_config()).started
        ),
    ),
    Use(
        "uvicorn",
        "Server.servers, .server_state",
        (*_SERVER, "node/local.py"),
        "the listeners, closed after the last request; the port that was chosen",
        lambda: (
            isinstance(uvicorn.Server(_config()).server_state, ServerState)
            and "self.servers" in inspect.getsource(uvicorn.Server.startup)
        ),
    ),
    Use(
        "starlette",
        "scope['route'].path",
        ("node/api/middleware.py",),
        "metrics are labelled by the pattern of a route, never by a path",
        lambda: _route_in_scope() == "/a/{name}",
    ),
    Use(
        "redis",
        "AbstractConnection._writer",
        _WIRE,
        "its transport, which goes on without redis-py's streams",
        lambda: _connection()._writer is None,
    ),
    Use(
        "redis",
        "AbstractConnection._parser.parse_error",
        _WIRE,
        "errors of the server, of redis-py's classes",
        lambda: str(_connection()._parser.parse_error("ERR x")) == "x",  # type: ignore[no-untyped-call]
    ),
    Use(
        "redis",
        "AbstractConnection._close()",
        (*_WIRE, "shared_state/redis/subscription.py"),
        "a socket that broke is closed at once, without waiting",
        lambda: _connection()._close() is None,  # type: ignore[no-untyped-call]
    ),
    Use(
        "redis",
        "AbstractConnection.connect(), .can_read()",
        _WIRE,
        "TLS, login and the check that nothing was left behind",
        lambda: all(map(inspect.iscoroutinefunction, (AbstractConnection.connect, AbstractConnection.can_read))),
    ),
    Use(
        "redis",
        "AbstractConnection.send_command(), .read_response()",
        ("shared_state/redis/server.py", "shared_state/redis/single.py"),
        "what is said on such a socket before it is taken over",
        lambda: all(
            map(inspect.iscoroutinefunction, (AbstractConnection.send_command, AbstractConnection.read_response))
        ),
    ),
    Use(
        "redis",
        "ConnectionPool.make_connection()",
        (*_WIRE, "shared_state/redis/server.py", "shared_state/redis/single.py"),
        "a socket with the pool's settings, of our own keeping",
        lambda: isinstance(_connection(), AbstractConnection),
    ),
    Use(
        "redis",
        "redis.crc.key_slot()",
        ("shared_state/redis/slots.py",),
        "which server of a Redis Cluster has a key",
        lambda: key_slot(b"{a}b") == key_slot(b"a") == 15495,
    ),
    Use(
        "hiredis",
        "Reader.gets(), .has_data(), pack_command()",
        _WIRE,
        "replies read where they arrive; commands packed many at a time",
        lambda: (
            hiredis.Reader(notEnoughData=None).gets() is None
            and hiredis.Reader().has_data() is False
            and hiredis.pack_command(("A",)) == b"*1\r\n$1\r\nA\r\n"
        ),
    ),
)

# Private names of third parties in our source, by file: each has its line above, or its reason here.
PRIVATE = {
    "shared_state/redis/subscription.py": {"_close"},
    "shared_state/redis/wire.py": {"_writer", "_parser", "_close"},
    # mcp has no other way to make the client that its transports expect.
    "aip_cluster/device/servers/opening.py": {"mcp.shared._httpx_utils"},
}


def _route_in_scope() -> str:
    seen: list[Scope] = []

    async def ask() -> None:
        async def endpoint(request: Any) -> PlainTextResponse:
            seen.append(request.scope)
            return PlainTextResponse("")

        scope = {"type": "http", "method": "GET", "path": "/a/b", "headers": [], "query_string": b""}

        async def ignore(*_: Any) -> Any:
            return None

        await Starlette(routes=[Route("/a/{name}", endpoint)])(scope, ignore, ignore)

    asyncio.run(ask())
    return str(seen[0]["route"].path)


@pytest.mark.parametrize("use", CONTRACT, ids=lambda use: f"{use.library}: {use.attribute}")
def test_it_is_as_we_rely_on_it(use: Use) -> None:
    assert use.holds(), f"{use.attribute} changed; {', '.join(use.users)} need it: {use.why}"


@pytest.mark.parametrize("use", CONTRACT, ids=lambda use: f"{use.library}: {use.attribute}")
def test_those_who_are_listed_use_it(use: Use) -> None:
    for user in use.users:
        assert use.library in (ROOT / user).read_text() or "route" in use.attribute, user


def test_libraries_in_the_contract_have_an_upper_bound() -> None:
    wanted = {use.library for use in CONTRACT}
    given: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounded = {line.partition(">=")[0] for line in given if ",<" in line}
    assert wanted <= bounded


def test_no_module_touches_a_private_name_that_is_not_listed() -> None:
    ours = {path: ast.parse(path.read_text()) for part in PRODUCT for path in sorted((ROOT / part).rglob("*.py"))}
    everywhere = {name for tree in ours.values() for name in _defined(tree)}
    for path, tree in ours.items():
        touched = set(_touched(tree, here=set(_defined(tree)), everywhere=everywhere))
        name = str(path.relative_to(ROOT))
        assert touched <= PRIVATE.get(name, set()), name


def _is_private(name: str) -> bool:
    """`_x`, and the dunder names in which libraries keep their insides; not those that Python documents."""
    if name.startswith("__") and name.endswith("__"):
        return name.startswith("__pydantic") or name in {"__self__", "__class__"}
    return name.startswith("_") and name not in DOCUMENTED and name != "_"


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module makes itself: functions, classes, variables, attributes, slots."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case ast.AnnAssign(target=ast.Attribute(attr=name)):
                yield name
            case ast.alias(name=name):
                yield name


def _touched(tree: ast.Module, *, here: set[str], everywhere: set[str]) -> Iterator[str]:
    """The private names that a module uses and that are not its own; of itself, those of its parents count as such."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if name not in everywhere:
                if _is_private(name):
                    yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name, ctx=context) if name not in here and _is_private(name):
                # What a class is may be asked, and not changed.
                if name != "__class__" or not isinstance(context, ast.Load):
                    yield name
            case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]):
                if _is_private(name) and name not in here:
                    yield name
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] not in PRODUCT:
                names = (part for part in module.split("."))
                if any(_is_private(part) for part in names):
                    yield module
                if module.split(".")[0] in LIBRARIES:
                    yield from (alias.name for alias in node.names if _is_private(alias.name))
