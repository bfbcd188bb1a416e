"""Toolboxes for tests: MCP servers of this process, and the local tools with what they need."""

from pathlib import Path
from typing import Any

from mcp.server import MCPServer

from aip_cluster.device.files.sender import FileSender
from aip_cluster.device.servers.opening import in_process, opener_for
from aip_cluster.device.servers.server import ToolServer
from aip_cluster.device.servers.spec import LOCAL_NAMESPACE, ServerSpec, Spec
from aip_cluster.device.toolbox import Toolbox
from aip_cluster.device.tools import build_server
from aip_cluster.device.workspace import Workspace
from aip_cluster.protocol.backoff import Backoff

NOTHING: MCPServer[Any] = MCPServer("nothing")


def eager() -> Backoff:
    """Tries again at once, or nearly: tests wait for what happens, not for a delay."""
    return Backoff(base_s=0.01, cap_s=0.05)


def inside(namespace: str, server: MCPServer[Any], **fields: Any) -> ToolServer:
    """A server of this process."""
    spec = ServerSpec.model_validate({"namespace": namespace, **fields})
    return ToolServer(spec, in_process(server), backoff=eager())


def outside(spec: Spec) -> ToolServer:
    """A server that is somewhere else."""
    return ToolServer(spec, opener_for(spec, NOTHING), backoff=eager())


def local_server(
    workdir: Path, *, confined: bool = True, output_limit_bytes: int = 4096, sender: FileSender | None = None
) -> MCPServer[Any]:
    """The agent's own tools."""

    async def describe() -> dict[str, Any]:
        return {"platform": "linux"}

    return build_server(
        Workspace(workdir, confined=confined),
        output_limit_bytes=output_limit_bytes,
        describe_system=describe,
        sender=sender or FileSender(),
    )


def local_toolbox(workdir: Path, **options: Any) -> Toolbox:
    """A toolbox with nothing but the agent's own tools."""
    return Toolbox([inside(LOCAL_NAMESPACE, local_server(workdir, **options))])
