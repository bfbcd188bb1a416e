"""A cluster of one inside another process: a node on a free loopback port, its state in memory.

For development: `aip-device local` finds it through the entry point group `aip_cluster.local`, since a client may not
import a node.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from node.app import Node
from node.settings import Settings

__all__ = ["local_cluster"]

START_S = 10.0
LOOK_S = 0.02


@contextlib.asynccontextmanager
async def local_cluster() -> AsyncIterator[str]:
    """The WebSocket address of a node that lives as long as the context. `AIP_*` variables apply to it.

    Raises TimeoutError if it is not up within 10 s, ValueError for wrong settings.
    """
    settings = Settings(local=True, port=0, node_id="local", redis_url="embedded://local")
    server = Node(settings).server(signals=False)
    serving = asyncio.create_task(server.serve(), name="local-node")
    try:
        async with asyncio.timeout(START_S):
            # uvicorn sets a flag and has no event for it.
            while not server.started:
                if serving.done():
                    await serving
                await asyncio.sleep(LOOK_S)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"ws://{host}:{port}/ws"
    finally:
        server.stop()
        await serving
