"""The tools this device offers, as an MCP server that lives inside the agent.

Six tools: a shell command, reading, writing, listing and sending files, and facts about the machine. Each is
described well enough for a model to choose it. What a caller did wrong comes back as a `ToolError` with a sentence;
arguments that the schema does not know are refused by name, since a misspelt `timeout` must not silently become the
default.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations
from pydantic import Field

from aip_cluster.device.environment import command_environment
from aip_cluster.device.files.receiver import safe_name
from aip_cluster.device.files.sender import FileSender, FileSource, SendFailed
from aip_cluster.device.origin import current_origin
from aip_cluster.device.servers.spec import LOCAL_NAMESPACE
from aip_cluster.device.shell import CommandTimeout, run_command
from aip_cluster.device.workspace import Workspace, WorkspaceError

__all__ = ["LOCAL_NAMESPACE", "build_server"]

DEFAULT_TIMEOUT_S = 30.0
MAX_TIMEOUT_S = 24 * 3600.0
DEFAULT_SEND_S = 600.0
DEFAULT_READ_BYTES = 256 * 1024
# An answer holds 8 MiB, and a byte that JSON must escape takes six.
MAX_READ_BYTES = 1024 * 1024


def build_server(
    workspace: Workspace,
    *,
    output_limit_bytes: int,
    describe_system: Callable[[], Awaitable[dict[str, Any]]],
    sender: FileSender,
    command_env: Collection[str] = (),
) -> MCPServer[Any]:
    """The MCP server with this device's tools. `command_env` names variables that commands inherit besides those of
    the allow-list."""
    tools = _LocalTools(workspace, output_limit_bytes, describe_system, sender, command_env)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    return MCPServer(
        LOCAL_NAMESPACE,
        instructions="Shell, files and facts of the device that this agent runs on.",
        tools=[
            _tool(
                tools.execute_command,
                title="Run a shell command",
                annotations=ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=True),
            ),
            _tool(tools.read_file, title="Read a file", annotations=reads),
            _tool(
                tools.write_file,
                title="Write a file",
                annotations=ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False),
            ),
            _tool(tools.list_files, title="List files", annotations=reads),
            _tool(
                tools.send_file,
                title="Send a file",
                annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False),
            ),
            _tool(tools.get_system_info, title="Describe this device", annotations=reads),
        ],
    )


def _tool(function: Callable[..., Any], *, title: str, annotations: ToolAnnotations) -> Tool:
    text = " ".join((function.__doc__ or "").split())
    tool = Tool.from_function(function, title=title, description=text, annotations=annotations)
    tool.parameters["additionalProperties"] = False
    return tool


class _LocalTools:
    """The functions behind the tools. Their docstrings are what a model reads."""

    def __init__(
        self,
        workspace: Workspace,
        output_limit_bytes: int,
        describe_system: Callable[[], Awaitable[dict[str, Any]]],
        sender: FileSender,
        command_env: Collection[str],
    ) -> None:
        self._workspace = workspace
        self._output_limit_bytes = output_limit_bytes
        self._describe_system = describe_system
        self._sender = sender
        self._command_env = command_env

    async def execute_command(
        self,
        command: Annotated[str, Field(description="The command line, as one would type it into sh.", min_length=1)],
        timeout: Annotated[
            float, Field(description="Seconds after which the command is killed.", gt=0, le=MAX_TIMEOUT_S)
        ] = DEFAULT_TIMEOUT_S,
        cwd: Annotated[str, Field(description="Folder to run in, relative to the working folder.")] = ".",
    ) -> dict[str, Any]:
        """Run a command in a shell on this device and return its exit code and what it wrote. A nonzero exit code
        is a result, not a failure; running past the timeout is a failure, and the command is killed. It starts in
        the device's working folder, but a shell is not a sandbox: it may do whatever the agent's user may. Standard
        input is empty. Jobs left in the background end with the command. Long output is cut, and `truncated` says
        so."""
        try:
            folder = self._workspace.folder(cwd)
            completed = await run_command(
                command,
                cwd=folder,
                timeout_s=timeout,
                output_limit_bytes=self._output_limit_bytes,
                environ=command_environment(self._command_env),
            )
        except WorkspaceError as exc:
            raise ToolError(f"cwd: {exc}") from None
        except CommandTimeout as exc:
            tail = f"; the last of its output: {exc.output}" if exc.output else ""
            raise ToolError(f"{exc}{tail}") from None
        except (OSError, ValueError) as exc:
            raise ToolError(f"the command could not be started: {exc}") from None
        return {
            "exit_code": completed.exit_code,
            "stdout": completed.stdout,
            "stderr": completed.stderr,
            "truncated": completed.truncated,
            "duration_s": completed.duration_s,
        }

    def read_file(
        self,
        path: Annotated[str, Field(description="The file, relative to the working folder.", min_length=1)],
        max_bytes: Annotated[int, Field(description="The most to read.", ge=1, le=MAX_READ_BYTES)] = DEFAULT_READ_BYTES,
        offset: Annotated[int, Field(description="The byte to start at.", ge=0, le=2**62)] = 0,
    ) -> dict[str, Any]:
        """Read a text file on this device. Bytes that are not UTF-8 come back as replacement characters.
        `truncated` says that there is more after `offset + bytes_read`."""
        try:
            return self._workspace.read(path, offset=offset, max_bytes=max_bytes)
        except WorkspaceError as exc:
            raise ToolError(str(exc)) from None

    def write_file(
        self,
        path: Annotated[str, Field(description="The file, relative to the working folder.", min_length=1)],
        content: Annotated[str, Field(description="The text to write, as UTF-8.")],
        append: Annotated[bool, Field(description="Add to the end instead of replacing.")] = False,
    ) -> dict[str, Any]:
        """Write a text file on this device, replacing it unless `append` is true. Folders above it are made."""
        try:
            return self._workspace.write(path, content, append=append)
        except WorkspaceError as exc:
            raise ToolError(str(exc)) from None

    def list_files(
        self,
        path: Annotated[str, Field(description="The folder, relative to the working folder.")] = ".",
        recursive: Annotated[bool, Field(description="Also what is in the folders below it.")] = False,
    ) -> dict[str, Any]:
        """List the files of a folder on this device with their types and sizes, at most 1,000 of them; `truncated`
        says that there are more. Symbolic links are named, not followed."""
        try:
            return self._workspace.listing(path, recursive=recursive)
        except WorkspaceError as exc:
            raise ToolError(str(exc)) from None

    async def send_file(
        self,
        path: Annotated[str, Field(description="The file, relative to the working folder.", min_length=1)],
        name: Annotated[str | None, Field(description="What to call it there; its own name if absent.")] = None,
        timeout: Annotated[
            float, Field(description="Seconds after which sending is given up.", gt=0, le=MAX_TIMEOUT_S)
        ] = DEFAULT_SEND_S,
    ) -> dict[str, Any]:
        """Send a file of any kind and size from this device to the session that this command belongs to, where it
        is kept with the session's results. Returns once it is stored there and its checksum was verified."""
        session_id = current_origin.get().session_id
        if session_id is None:
            raise ToolError("this command belongs to no session that a file could be sent to")
        try:
            shown = safe_name(path if name is None else name)
            source = FileSource(self._workspace.open(path))
        except (WorkspaceError, ValueError) as exc:
            raise ToolError(str(exc)) from None
        try:
            sent = await self._sender.send(source, shown, session_id, timeout_s=timeout)
        except SendFailed as exc:
            raise ToolError(str(exc)) from None
        return {"name": sent.name, "size": sent.size, "sha256": sent.sha256}

    async def get_system_info(self) -> dict[str, Any]:
        """Facts about this device: system, processor, memory, disk, graphics, network, what is installed on it."""
        return await self._describe_system()
