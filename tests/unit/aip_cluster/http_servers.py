"""ASGI applications on loopback ports, for as long as a test wants them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from tests.unit.aip_cluster.scripted import PATIENCE_S


@asynccontextmanager
async def serving(app: Any, port: int, *, ws: str = "none") -> AsyncIterator[str]:
    """The application at work; the address it is reached at."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, ws=ws, log_config=None, timeout_graceful_shutdown=1, lifespan="on"
    )
    server = uvicorn.Server(config)
    # Not `serve`, which would take over the signals of the tests.
    running = asyncio.create_task(server._serve())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not server.started:
                assert not running.done(), "the server did not start"
                await asyncio.sleep(0.01)
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        async with asyncio.timeout(PATIENCE_S):
            await running
