"""The configuration of the nginx that `scripts/up` runs, rendered by the project's own `loadbalancer`."""

import os
import resource
import sys
from pathlib import Path

from devtools.bootstrap import ROOT
from devtools.outcome import Exit, ScriptError

__all__ = ["write_config"]

MAX_CONNECTIONS = 16_384


def write_config(run_dir: Path, logs: Path, nodes: list[str], listen: str, *, drain_seconds: int = 300) -> Path:
    """Writes nginx.conf below `run_dir` and returns its path. Raises ScriptError.

    `drain_seconds`: how long the workers of before a reload keep their sockets.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from loadbalancer.render import (  # noqa: PLC0415 - see above
        DEFAULT_BODY_LIMIT_BYTES,
        DEFAULT_FILE_LIMIT_BYTES,
        RenderError,
        render,
    )

    directory = run_dir / "nginx"
    directory.mkdir(exist_ok=True)
    try:
        text = render(
            nodes,
            listen,
            directory,
            user=_worker_user(directory),
            worker_connections=_worker_connections(),
            drain_seconds=drain_seconds,
            # Whoever connects is on this machine.
            connections_per_address=0,
            access_log=str(logs / "nginx-access.log"),
            error_log=str(logs / "nginx-error.log"),
            body_limit_bytes=_from_environment("AIP_MAX_BODY_BYTES", DEFAULT_BODY_LIMIT_BYTES),
            file_limit_bytes=_from_environment("AIP_MAX_FILE_BYTES", DEFAULT_FILE_LIMIT_BYTES),
        )
    except RenderError as exc:
        raise ScriptError(Exit.NOT_READY, f"nginx cannot be configured: {exc}") from None
    config = directory / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    return config


def _from_environment(name: str, default: int) -> int:
    """What the nodes accept, nginx lets through."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default


def _worker_connections() -> int:
    """As many as the limit of open files allows, at two for each connection: more would only be an alert."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else max(64, min(MAX_CONNECTIONS, (hard - 1024) // 2))


def _worker_user(directory: Path) -> str | None:
    """Whom nginx's workers run as when root starts it: nobody, unless that one cannot reach `directory`."""
    if os.geteuid() != 0:
        return None
    reachable = all(parent.stat().st_mode & 0o001 for parent in (directory, *directory.parents))
    return None if reachable else "root"
