"""Nodes in this process, over the embedded backend: several of one name are a cluster."""

import gc
import logging
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from node.app import Node
from node.settings import Settings
from shared_state.redis.connection import Connection
from tests.support.asgi import rest
from tests.support.backends import without_life

MakeNode = Callable[..., Awaitable[Node]]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test says is set, and nothing goes through a proxy."""
    for name in os.environ:
        ours = name.upper().startswith("AIP_") and not name.startswith("AIP_TEST_")
        if ours or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a node's start changes in the logging of the whole process is put back."""
    names = ("", "uvicorn", "uvicorn.error", "uvicorn.access")
    loggers = [logging.getLogger(name) for name in names]
    kept = [(list(g.handlers), g.level, g.propagate) for g in loggers]
    disabled = logging.root.manager.disable
    yield
    for logger, (handlers, level, propagate) in zip(loggers, kept, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.disable(disabled)


@pytest.fixture
async def make_node() -> AsyncIterator[MakeNode]:
    """Starts nodes of one cluster; stops them, and looks for keys that would have stayed for ever."""
    url = f"embedded://{uuid.uuid4().hex}"
    nodes: list[Node] = []
    thresholds = gc.get_threshold()

    async def make(**settings: Any) -> Node:
        # All clients of a test have one address: it may have all that the node bears.
        defaults: dict[str, Any] = {"redis_url": url, "node_id": f"node-{len(nodes)}", "echo_wait_s": 0.0}
        defaults["address_share"] = 1.0
        node = Node(Settings(**(defaults | settings)))
        nodes.append(node)
        await node.start()
        return node

    yield make
    for node in nodes:
        await node.stop()
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    connection = Connection(url)
    immortal = await without_life(connection, "aip")
    await connection.close()
    assert immortal == [], "keys without a time to live"


@pytest.fixture
async def node(make_node: MakeNode) -> Node:
    """One node with the settings that a node has by default."""
    return await make_node()


@pytest.fixture
async def api(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    """REST calls to that node."""
    async with rest(node) as client:
        yield client
