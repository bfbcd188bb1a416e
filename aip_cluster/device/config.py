"""The agent's settings: from flags, else from the environment, else from a YAML file, validated whole.

The MCP servers, tags, variables for commands and custom metadata come from the file alone (see
`aip_cluster.device.servers.spec`). Whatever is wrong becomes one `ConfigError` whose text names the flag, the variable
or the key at fault. Variables `AIP_DEVICE_*` that name no setting are reported, not refused: Kubernetes sets some of
its own under such names.
"""

import logging
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from aip_cluster.device.environment import OWN_VARIABLES
from aip_cluster.device.servers.spec import Spec, SpecError, parse_servers
from aip_cluster.protocol.ids import check_client_id
from aip_cluster.sockets import websocket_url

__all__ = ["ConfigError", "Settings", "load", "system_platform"]

logger = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "AIP_DEVICE_"
MIB = 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024

Platform = Literal["linux", "darwin", "windows", "mobile"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class ConfigError(Exception):
    """Settings that cannot be used; `str(error)` is one line for the operator."""


class Settings(BaseModel):
    """Everything that an operator may choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str
    device_id: str
    token: SecretStr | None = None
    platform: Platform
    workdir: Path
    unconfined: bool = False
    log_level: LogLevel = "INFO"
    heartbeat_s: float = Field(default=20.0, gt=0, le=300)
    max_in_flight: int = Field(default=8, ge=1, le=256)
    output_limit_bytes: int = Field(default=256 * 1024, ge=1024, le=2 * MIB)
    max_answer_bytes: int = Field(default=8 * MIB, ge=64 * 1024, le=64 * MIB)
    max_file_bytes: int = Field(default=512 * MIB, ge=0)
    profile_refresh_s: float = Field(default=300.0, ge=1, le=24 * 3600)
    tags: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = Field(default=(), max_length=64)
    command_env: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], ...] = Field(
        default=(), max_length=64
    )
    custom_metadata: dict[str, Any] = {}
    mcp_servers: tuple[Spec, ...] = ()

    @field_validator("server")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        return websocket_url(value)

    @field_validator("device_id")
    @classmethod
    def _may_name_a_client(cls, value: str) -> str:
        try:
            return check_client_id(value, "the id")
        except Exception as exc:
            raise ValueError(str(exc)) from None

    @field_validator("token")
    @classmethod
    def _fits_in_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("must be printable ASCII without spaces")
        return value

    @field_validator("command_env")
    @classmethod
    def _holds_no_key_of_the_agent(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in OWN_VARIABLES:
                raise ValueError(f"{name} is the agent's own key, which no command may have")
        return value

    @field_validator("custom_metadata")
    @classmethod
    def _can_travel(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            written = orjson.dumps(value)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("holds a value that JSON cannot carry") from None
        if len(written) > MAX_METADATA_BYTES:
            raise ValueError(f"must not be larger than {MAX_METADATA_BYTES} bytes")
        # As it travels: YAML knows dates, JSON does not.
        read: dict[str, Any] = orjson.loads(written)
        return read

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class _FileSection(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _FileServer(_FileSection):
    host: str
    port: int | None = Field(default=None, ge=1, le=65535)
    protocol: Literal["ws", "wss", "http", "https"] = "ws"


class _FileDevice(_FileSection):
    name: str | None = None
    platform: Platform | None = None
    workdir: str | None = None
    unconfined: bool | None = None
    heartbeat_s: float | None = None
    max_in_flight: int | None = None
    output_limit_bytes: int | None = None
    max_answer_bytes: int | None = None
    max_file_bytes: int | None = None
    profile_refresh_s: float | None = None
    tags: list[str] | None = None
    command_env: list[str] | None = None
    custom_metadata: dict[str, Any] | None = None


class _File(_FileSection):
    server: _FileServer | None = None
    device: _FileDevice | None = None
    mcp_servers: Any = None
    log_level: str | None = None


# Where a setting is found: field of Settings -> flag, variable, key of the file.
_SOURCES: dict[str, tuple[str | None, str, str | None]] = {
    "server": ("--server", "SERVER", "server"),
    "device_id": ("--id", "ID", "device.name"),
    "token": ("--token", "TOKEN", None),
    "platform": ("--platform", "PLATFORM", "device.platform"),
    "workdir": ("--workdir", "WORKDIR", "device.workdir"),
    "unconfined": ("--unconfined", "UNCONFINED", "device.unconfined"),
    "log_level": ("--log-level", "LOG_LEVEL", "log_level"),
    "heartbeat_s": (None, "HEARTBEAT_S", "device.heartbeat_s"),
    "max_in_flight": (None, "MAX_IN_FLIGHT", "device.max_in_flight"),
    "output_limit_bytes": (None, "OUTPUT_LIMIT_BYTES", "device.output_limit_bytes"),
    "max_answer_bytes": (None, "MAX_ANSWER_BYTES", "device.max_answer_bytes"),
    "max_file_bytes": (None, "MAX_FILE_BYTES", "device.max_file_bytes"),
    "profile_refresh_s": (None, "PROFILE_REFRESH_S", "device.profile_refresh_s"),
}
# And those that only the file can hold.
_FILE_KEYS = {
    "tags": "device.tags",
    "command_env": "device.command_env",
    "custom_metadata": "device.custom_metadata",
    "mcp_servers": "mcp_servers",
}


def system_platform() -> Platform:
    """The platform this agent runs on, in AIP's spelling."""
    return "darwin" if platform.system() == "Darwin" else "linux"


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """The settings in force. `flags` holds what the command line gave, `None` where it gave nothing; its `config`
    names the YAML file. Raises ConfigError."""
    path = flags.get("config") or environ.get(ENVIRONMENT_PREFIX + "CONFIG")
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    servers: object = None
    if path:
        read, servers = _read_file(Path(path))
        for field, value in read.items():
            values[field], origin[field] = value, f"{path}: {_FILE_KEYS.get(field) or _SOURCES[field][2]}"
    for field, (_, variable, _key) in _SOURCES.items():
        names = [ENVIRONMENT_PREFIX + variable, *(["AIP_API_KEY"] if field == "token" else [])]
        name = next((name for name in names if environ.get(name)), None)
        if name is not None:
            values[field], origin[field] = environ[name], name
    for field, (flag, _, _key) in _SOURCES.items():
        if flag is not None and flags.get(field) is not None:
            values[field], origin[field] = flags[field], flag
    _report_unknown_variables(environ)
    for field in ("server", "device_id"):
        if field not in values:
            flag, variable, key = _SOURCES[field]
            raise ConfigError(f"nothing says {key}: give {flag}, or set {ENVIRONMENT_PREFIX}{variable}")
    try:
        values["mcp_servers"] = parse_servers(servers, environ)
    except SpecError as exc:
        raise ConfigError(f"{path}: {exc.key}: {exc}") from None
    values.setdefault("platform", system_platform())
    values.setdefault("workdir", Path.home() / ".aip-device" / _folder_name(str(values["device_id"])))
    try:
        return Settings.model_validate(values)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        field, *inner = (str(part) for part in error["loc"])
        key = ".".join([origin.get(field, field), *inner])
        raise ConfigError(f"{key}: {_sentence(error['msg'])}") from None


def _read_file(path: Path) -> tuple[dict[str, Any], object]:
    """The settings in the file by their names, and what it says about MCP servers. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ConfigError(f"{path}: {where}{getattr(exc, 'problem', None) or 'is not YAML'}") from None
    if content is None:
        return {}, None
    try:
        file = _File.model_validate(content)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in error["loc"]) or "the file"
        text = "is not a setting" if error["type"] == "extra_forbidden" else _sentence(error["msg"])
        raise ConfigError(f"{path}: {key}: {text}") from None
    values: dict[str, Any] = {} if file.log_level is None else {"log_level": file.log_level}
    if file.server is not None:
        host = f"[{file.server.host}]" if ":" in file.server.host else file.server.host
        port = "" if file.server.port is None else f":{file.server.port}"
        values["server"] = f"{file.server.protocol}://{host}{port}"
    if file.device is not None:
        device = file.device.model_dump(exclude_none=True)
        if "name" in device:
            values["device_id"] = device.pop("name")
        values |= device
    return values, file.mcp_servers


def _report_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {ENVIRONMENT_PREFIX + variable for _, variable, _ in _SOURCES.values()}
    known.add(ENVIRONMENT_PREFIX + "CONFIG")
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known:
            logger.warning("the variable %s names no setting of the device agent", name)


def _folder_name(device_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", device_id).lstrip(".") or "_"


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input ").replace("\n", " ")
