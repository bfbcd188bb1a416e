"""The command line: `aip-device start …`, `aip-device local …`.

Exit codes: 0 after a signal, 2 for a wrong command line, wrong settings, or packages that are not installed. `local`
ends with 0 if its task has completed and with 1 if not.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aip_cluster.device.environment import OWN_VARIABLES, restart_without_secrets

__all__ = ["main"]

# Packages of the `device` extra that the agent imports, by import name.
_EXTRA_PACKAGES = {"mcp", "mcp_types", "psutil", "jsonschema", "referencing"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aip-device", description="Connect this machine to an AIP cluster as a device."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser(
        "start",
        # An abbreviated --token would stay in the command line.
        allow_abbrev=False,
        help="connect, register, and carry out commands until told to stop",
        epilog="Flags win over the environment (AIP_DEVICE_SERVER, AIP_DEVICE_ID, …), which wins over the file.",
    )
    start.add_argument("--server", metavar="URL", help="ws://HOST:PORT/ws of a node or a load balancer")
    start.add_argument("--id", dest="device_id", metavar="NAME", help="the name to register under")
    start.add_argument("--token", metavar="KEY", help="API key; AIP_API_KEY keeps it out of the shell's history")
    start.add_argument("--platform", metavar="P", help="linux, darwin, windows or mobile (default: this system)")
    start.set_defaults(run=_start)
    local = commands.add_parser(
        "local", help="run one task with a node and a device in this process, and print its steps and its result"
    )
    local.add_argument("--request", metavar="TEXT", required=True, help="the task, in words")
    local.add_argument("--commands", metavar="JSON|@FILE", help="the commands to carry out, for the direct planner")
    local.add_argument("--planner", metavar="P", help="the planner (default: the first that fits)")
    local.set_defaults(run=_local, log_level="WARNING")
    for command in (start, local):
        command.add_argument("--config", metavar="FILE", help="a YAML file with settings, MCP servers among them")
        command.add_argument("--workdir", metavar="DIR", help="working folder (default: ~/.aip-device/NAME)")
        command.add_argument(
            "--unconfined",
            action="store_const",
            const=True,
            help="let the file tools leave the working folder (a shell command can in any case)",
        )
        command.add_argument("--log-level", metavar="L", help="debug, info, warning or error")
    return parser


def _configure_logging(level: str) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    # mcp logs the text of every failed tool call at INFO, and that text may repeat parameters.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    # And these log every request, with an address that may hold a key.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _fail(message: str) -> int:
    print(f"aip-device: {message}", file=sys.stderr)
    return 2


def _start(flags: Mapping[str, Any]) -> int:
    from aip_cluster.device.agent import Agent, run_agent  # noqa: PLC0415
    from aip_cluster.device.config import load  # noqa: PLC0415

    settings = load(flags, os.environ)
    for name in OWN_VARIABLES:
        os.environ.pop(name, None)
    _configure_logging(settings.log_level)

    async def work() -> None:
        await run_agent(Agent(settings))

    asyncio.run(work())
    return 0


def _local(flags: Mapping[str, Any]) -> int:
    from aip_cluster.device.local import run_local  # noqa: PLC0415

    level = str(flags["log_level"]).upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        return _fail("--log-level: should be debug, info, warning or error")
    _configure_logging(level)
    return asyncio.run(run_local(flags, os.environ))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent and return its exit code. `argv` is the command line without the program's name.

    Without one it is that of this process, which is started again without what commands must not see (see
    `aip_cluster.device.environment`).
    """
    if argv is None:
        argv = restart_without_secrets(sys.argv[1:]) if os.name == "posix" else sys.argv[1:]
    flags = vars(_parser().parse_args(argv))
    if os.name != "posix":
        return _fail("this agent runs on Linux and macOS; on Windows, UFO's own client speaks the same protocol")
    _configure_logging("INFO")
    try:
        return _guarded(flags.pop("run"), flags)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA_PACKAGES:
            raise
        return _fail(f"the package {exc.name!r} is missing: pip install 'aip-cluster[device]'")
    except KeyboardInterrupt:
        return 1


def _guarded(run: Callable[[Mapping[str, Any]], int], flags: Mapping[str, Any]) -> int:
    """What `run` returns, or 2 with a sentence about what is wrong with the settings."""
    # Imported here and below, not above, so that a missing extra can be explained.
    from aip_cluster.device.config import ConfigError  # noqa: PLC0415

    try:
        return run(flags)
    except ConfigError as exc:
        return _fail(str(exc))


if __name__ == "__main__":
    sys.exit(main())
