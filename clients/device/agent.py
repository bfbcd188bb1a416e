"""The agent put together: tools, executor, link, and the way they end.

On SIGTERM or SIGINT no more commands are taken, those that run are cancelled with their processes, the socket is
closed with 1000, and `run_agent` returns; all of it within 5 s.
"""

import asyncio
import logging
import signal
from typing import Any

from clients.device.config import Settings
from clients.device.executor import Executor
from clients.device.link import Link, Outbox
from clients.device.profile import collect
from clients.device.toolbox import Toolbox
from clients.device.tools import LOCAL_NAMESPACE, build_server
from clients.device.workspace import Workspace

__all__ = ["run_agent"]

logger = logging.getLogger(__name__)


async def run_agent(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Must be called from the main thread."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    toolbox: Toolbox

    def profile() -> dict[str, Any]:
        return collect(
            settings.device_id,
            platform=settings.platform,
            workdir=settings.workdir,
            mcp_servers=toolbox.servers(),
            tools=toolbox.names(),
        )

    server = build_server(
        Workspace(settings.workdir, confined=not settings.unconfined),
        output_limit_bytes=settings.output_limit_bytes,
        describe_system=profile,
    )
    async with Toolbox({LOCAL_NAMESPACE: server}) as toolbox:
        outbox = Outbox()
        executor = Executor(toolbox, settings.device_id, outbox.put, max_in_flight=settings.max_in_flight)
        link = Link(
            settings.server,
            settings.device_id,
            handler=executor,
            outbox=outbox,
            profile=profile,
            api_key=settings.token.get_secret_value() if settings.token is not None else None,
            heartbeat_s=settings.heartbeat_s,
        )
        logger.info("device %r works in %s", settings.device_id, settings.workdir)
        running = asyncio.create_task(link.run(), name="link")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            logger.info("stopping")
            await executor.close()
        finally:
            running.cancel()
            stopping.cancel()
            (ended, _) = await asyncio.gather(running, stopping, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
