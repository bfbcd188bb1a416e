"""The command line: `aip-device start …`.

Exit codes: 0 after a signal, 2 for a wrong command line, wrong settings, or packages that are not installed.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

# Packages of the `device` extra that the agent imports, by import name.
_EXTRA_PACKAGES = {"mcp", "mcp_types", "psutil", "yaml", "jsonschema", "referencing"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aip-device", description="Connect this machine to an AIP cluster as a device."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser(
        "start",
        help="connect, register, and carry out commands until told to stop",
        epilog="Flags win over the environment (AIP_DEVICE_SERVER, AIP_DEVICE_ID, …), which wins over the file.",
    )
    start.add_argument("--server", metavar="URL", help="ws://HOST:PORT/ws of a node or a load balancer")
    start.add_argument("--id", dest="device_id", metavar="NAME", help="the name to register under")
    start.add_argument("--config", metavar="FILE", help="a YAML file with the same settings")
    start.add_argument("--token", metavar="KEY", help="API key; AIP_API_KEY keeps it out of the process list")
    start.add_argument("--workdir", metavar="DIR", help="working folder (default: ~/.aip-device/NAME)")
    start.add_argument(
        "--unconfined",
        action="store_const",
        const=True,
        help="let the file tools leave the working folder (a shell command can in any case)",
    )
    start.add_argument("--platform", metavar="P", help="linux, darwin, windows or mobile (default: this system)")
    start.add_argument("--log-level", metavar="L", help="debug, info, warning or error (default: info)")
    return parser


def _configure_logging(level: str) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    # mcp logs the text of every failed tool call at INFO, and that text may repeat parameters.
    logging.getLogger("mcp").setLevel(logging.WARNING)


def _fail(message: str) -> int:
    print(f"aip-device: {message}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent and return its exit code. `argv` is the command line without the program's name."""
    flags = vars(_parser().parse_args(argv))
    if os.name != "posix":
        return _fail("this agent runs on Linux and macOS; on Windows, UFO's own client speaks the same protocol")
    # Imported here and not above, so that a missing extra can be explained.
    try:
        from clients.device.agent import run_agent  # noqa: PLC0415
        from clients.device.config import ConfigError, load  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA_PACKAGES:
            raise
        return _fail(f"the package {exc.name!r} is missing: pip install 'aip-cluster[device]'")
    _configure_logging("INFO")
    try:
        settings = load(flags, os.environ)
        _configure_logging(settings.log_level)
        settings.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except ConfigError as exc:
        return _fail(str(exc))
    except OSError as exc:
        return _fail(f"the working folder cannot be made: {exc}")
    asyncio.run(run_agent(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
