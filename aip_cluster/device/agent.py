"""The agent put together: servers, tools, profile, files, executor, link, and the way they end.

On SIGTERM or SIGINT no more commands are taken, those that run are cancelled with their processes, the socket is
closed with 1000, MCP servers that are processes are ended, and `run_agent` returns; all of it within 10 s, and
without such servers within 5.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aip_cluster.device.config import ConfigError, Settings
from aip_cluster.device.executor import Executor
from aip_cluster.device.files.receiver import FileReceiver
from aip_cluster.device.files.sender import FileSender
from aip_cluster.device.link import Link
from aip_cluster.device.outbox import Outbox
from aip_cluster.device.profile import Profiler
from aip_cluster.device.servers.opening import opener_for
from aip_cluster.device.servers.server import ToolServer
from aip_cluster.device.servers.spec import SpecError
from aip_cluster.device.toolbox import Toolbox
from aip_cluster.device.tools import build_server
from aip_cluster.device.workspace import Workspace

__all__ = ["Agent", "run_agent", "running"]

logger = logging.getLogger(__name__)


class Agent:
    """One device. Raises ConfigError if its folder cannot be made, or a configured server can never be one; `run` is
    the rest of its life."""

    def __init__(self, settings: Settings) -> None:
        try:
            settings.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"the working folder cannot be made: {exc}") from None
        workspace = Workspace(settings.workdir, confined=not settings.unconfined)
        sender = FileSender()
        builtin = build_server(
            workspace,
            output_limit_bytes=settings.output_limit_bytes,
            describe_system=lambda: self._profiler.summary(),  # noqa: PLW0108 - the profiler comes after the tools
            sender=sender,
            command_env=settings.command_env,
        )
        try:
            servers = [ToolServer(spec, opener_for(spec, builtin)) for spec in settings.mcp_servers]
        except SpecError as exc:
            raise ConfigError(f"{exc.key}: {exc}") from None
        self._settings = settings
        self._toolbox = Toolbox(servers, on_change=lambda: self._profiler.tools_changed())  # noqa: PLW0108 - as above
        self._profiler = Profiler(settings, self._toolbox, refresh_s=settings.profile_refresh_s)
        outbox = Outbox()
        self._executor = Executor(
            self._toolbox,
            settings.device_id,
            outbox.put,
            max_in_flight=settings.max_in_flight,
            max_answer_bytes=settings.max_answer_bytes,
        )
        self._receiver = FileReceiver(workspace, max_file_bytes=settings.max_file_bytes)
        self._link = Link(
            settings.server,
            settings.device_id,
            handler=self._executor,
            outbox=outbox,
            profiles=self._profiler,
            sender=sender,
            receiver=self._receiver,
            api_key=settings.token.get_secret_value() if settings.token is not None else None,
            heartbeat_s=settings.heartbeat_s,
        )

    @property
    def registered(self) -> asyncio.Event:
        """Set from the first registration on."""
        return self._link.registered

    async def run(self) -> None:
        """Work until cancelled; then stop as described above."""
        await asyncio.to_thread(self._receiver.clean)
        async with self._toolbox:
            await self._profiler.start()
            logger.info("device %r works in %s", self._settings.device_id, self._settings.workdir)
            parts = [
                asyncio.create_task(self._link.run(), name="link"),
                asyncio.create_task(self._profiler.run(), name="profile"),
            ]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in done:
                    part.result()
            finally:
                logger.info("stopping")
                await self._executor.close()
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
    """The agent at work for as long as the context lasts, as its task: one that ends by itself has failed."""
    task = asyncio.create_task(agent.run(), name="agent")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (exc := task.exception()) is not None:
            raise exc


async def run_agent(agent: Agent) -> None:
    """Run until SIGTERM or SIGINT. Must be called from the main thread."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(agent) as task:
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
