"""What the configuration says about one MCP server.

    builtin    the agent's own tools; there without being asked for
    python     an `MCPServer` object in a module, run inside the agent
    stdio      a command that speaks MCP over its standard input and output
    http       the address of a server that speaks streamable HTTP

Values of `env` and `headers` may say `${NAME}`, which becomes the environment variable of that name: secrets stay
out of the file, and out of logs. `parse_servers` raises `SpecError`, which names the key at fault.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

__all__ = [
    "LOCAL_NAMESPACE",
    "BuiltinSpec",
    "HttpSpec",
    "PythonSpec",
    "ServerSpec",
    "Spec",
    "SpecError",
    "StdioSpec",
    "ToolType",
    "parse_servers",
]

LOCAL_NAMESPACE = "local"
DEFAULT_TIMEOUT_S = 120.0
MAX_SERVERS = 64

ToolType = Literal["action", "data_collection"]

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class SpecError(ValueError):
    """A part of the configuration that cannot be used; `key` is its path."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class ServerSpec(BaseModel):
    """What every server has. `agents` are the agent names that it serves; none means all."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    namespace: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    agents: Annotated[list[str], BeforeValidator(_as_list)] = Field(default=[], alias="agent", max_length=64)
    tool_type: ToolType | None = None
    timeout_s: float = Field(default=DEFAULT_TIMEOUT_S, gt=0, le=24 * 3600)
    enabled: bool = True

    def serves(self, agent_name: str | None) -> bool:
        """Whether its tools are there for an agent of that name; for a command that names none, all are."""
        return not self.agents or agent_name is None or agent_name in self.agents


class BuiltinSpec(ServerSpec):
    """The agent's own tools."""

    type: Literal["builtin"] = "builtin"


class PythonSpec(ServerSpec):
    """An MCPServer object, as `package.module:attribute`. It shares the agent's process and its fate."""

    type: Literal["python"] = "python"
    target: str

    @field_validator("target")
    @classmethod
    def _names_an_attribute(cls, value: str) -> str:
        if not _TARGET.fullmatch(value):
            raise ValueError("must look like package.module:attribute")
        return value


class StdioSpec(ServerSpec):
    """A command. It inherits few variables (PATH, HOME and the like) besides those of `env`."""

    type: Literal["stdio"] = "stdio"
    command: str = Field(min_length=1)
    args: list[str] = []
    env: dict[str, SecretStr] = {}
    cwd: str | None = None


class HttpSpec(ServerSpec):
    """An address. Redirects to another origin are not followed: the headers may hold keys."""

    type: Literal["http"] = "http"
    url: str
    headers: dict[str, SecretStr] = {}

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        _ = parts.port
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must look like http://host:port/mcp (or https)")
        if "@" in parts.netloc:
            raise ValueError("must not carry credentials; give them in headers")
        return value

    @field_validator("headers")
    @classmethod
    def _fit_in_a_request(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, header in value.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name[:100]!r} cannot name a header")
            if not re.fullmatch(r"[\x20-\x7e]*", header.get_secret_value()):
                raise ValueError(f"the value of {name} must be printable ASCII")
        return value


Spec = BuiltinSpec | PythonSpec | StdioSpec | HttpSpec

_KINDS: dict[str, type[Spec]] = {
    "builtin": BuiltinSpec,
    "python": PythonSpec,
    "stdio": StdioSpec,
    "http": HttpSpec,
}


def parse_servers(value: object, environ: Mapping[str, str], *, key: str = "mcp_servers") -> tuple[Spec, ...]:
    """The servers in force: those of a list, or of a map from namespace to server, and the agent's own if no entry
    is about it. Raises SpecError."""
    specs: list[Spec] = []
    taken: set[str] = set()
    for path, entry in _entries(value, key):
        spec = _parse(path, entry, environ)
        if spec.namespace in taken:
            raise SpecError(f"{path}.namespace", f"{spec.namespace!r} is the namespace of another server")
        taken.add(spec.namespace)
        specs.append(spec)
    if not any(spec.type == "builtin" for spec in specs):
        if LOCAL_NAMESPACE in taken:
            raise SpecError(key, f"{LOCAL_NAMESPACE!r} is the namespace of the agent's own tools, of type builtin")
        specs.insert(0, BuiltinSpec(namespace=LOCAL_NAMESPACE))
    if len([spec for spec in specs if spec.type == "builtin"]) > 1:
        raise SpecError(key, "there is one server of type builtin, not more")
    if len(specs) > MAX_SERVERS:
        raise SpecError(key, f"there may be {MAX_SERVERS} servers, not more")
    return tuple(spec for spec in specs if spec.enabled)


def _entries(value: object, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if value is None:
        return
    pairs: list[tuple[str, Any, str | None]]
    if isinstance(value, dict):
        pairs = [(f"{key}.{name}", entry, str(name)) for name, entry in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{key}.{index}", entry, None) for index, entry in enumerate(value)]
    else:
        raise SpecError(key, "must be a list or a map of servers")
    for path, entry, name in pairs:
        if not isinstance(entry, dict) or not all(isinstance(field, str) for field in entry):
            raise SpecError(path, "must be a map of settings")
        yield path, entry if name is None else {"namespace": name, **entry}


def _parse(path: str, entry: dict[str, Any], environ: Mapping[str, str]) -> Spec:
    kind = entry.get("type")
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise SpecError(f"{path}.type", f"must be one of {', '.join(_KINDS)}")
    if model is BuiltinSpec:
        entry = {"namespace": LOCAL_NAMESPACE, **entry}
    entry = {**entry, **{field: _expand(f"{path}.{field}", entry[field], environ) for field in _secret(entry)}}
    try:
        return model.model_validate(entry)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join([path, *(str(part) for part in error["loc"])])
        text = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise SpecError(key, "is not a setting" if error["type"] == "extra_forbidden" else text) from None


def _secret(entry: dict[str, Any]) -> list[str]:
    return [field for field in ("env", "headers") if isinstance(entry.get(field), dict)]


def _expand(path: str, values: dict[Any, Any], environ: Mapping[str, str]) -> dict[Any, Any]:
    """The values with variables in place of `${NAME}`, each wrapped so that no message can show it."""
    expanded: dict[Any, Any] = {}
    for name, value in values.items():
        if not isinstance(value, str):
            raise SpecError(f"{path}.{name}", "must be a string (quote it)")
        for variable in _VARIABLE.findall(value):
            if variable not in environ:
                raise SpecError(f"{path}.{name}", f"the variable {variable!r} is not set")
        expanded[name] = SecretStr(_VARIABLE.sub(lambda match: environ[match[1]], value))
    return expanded
