"""The settings of a node: one typed object, from the command line, then `AIP_*` variables, then defaults.

Unknown flags are refused; unknown `AIP_*` variables are reported at start, since a misspelt one is silently off.
"""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared_state.redis.url import with_passwords

__all__ = ["Settings", "unknown_variables"]

ENV_PREFIX = "AIP_"
# Read by the programs beside the node: not mistakes.
FOREIGN_PREFIXES = ("AIP_DEVICE_", "AIP_TEST_")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "OFF"]


class Settings(BaseSettings):
    """Every setting of `aip-node`. Durations carry their unit in the name."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        allow_inf_nan=False,
        cli_prog_name="aip-node",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    # The five that UFO's server has, under their names.
    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 - a server's default, as UFO's
    port: int = Field(5000, ge=0, le=65535, description="port to listen on")
    platform: Literal["windows", "linux", "mobile"] | None = Field(
        None, description="treat every device as this platform; by default, each device names its own"
    )
    log_level: Annotated[LogLevel, NoDecode] = Field(
        "INFO", description="lowest level that is logged; OFF logs nothing"
    )
    local: bool = Field(False, description="listen on the loopback interface only")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="separate port for /metrics, /livez and /readyz; 0 serves them on `port`"
    )

    # The cluster.
    redis_url: str = Field(
        "embedded://",
        description="address of Redis: redis://, unix://, redis+sentinel:// or redis+cluster:// (rediss: TLS); "
        "embedded:// runs one node without Redis and needs the extra `embedded`",
    )
    redis_password: SecretStr | None = Field(
        None, description="password of the Redis servers if redis_url has none; no percent-encoding"
    )
    redis_sentinel_password: SecretStr | None = Field(
        None, description="password of the sentinels if redis_url has none; no percent-encoding"
    )
    node_id: str = Field(
        default_factory=lambda: re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()) or "node",
        description="name of this node, by default the host name; a random suffix makes it unique per start",
    )
    key_prefix: str = Field("aip", description="first part of every Redis key; several clusters can share one Redis")
    redis_timeout_s: float = Field(3.0, gt=0, description="longest wait for one call to Redis")
    min_replicas: int = Field(
        0,
        ge=0,
        description="number of Redis replicas that must hold a dispatch before it is answered with 200; 0 waits for "
        "none",
    )
    replica_wait_ms: int = Field(
        500, gt=0, description="longest wait for these replicas; after it, the dispatch gets 503"
    )
    redis_queue_share: float = Field(
        0.9,
        gt=0,
        description="share of Redis' maxmemory above which nodes refuse files and tasks that may wait for their device "
        "(503 with Retry-After)",
    )
    redis_task_share: float = Field(
        0.95,
        gt=0,
        description="share of Redis' maxmemory above which nodes refuse all new tasks (503 with Retry-After)",
    )
    probe_interval_s: float = Field(
        2.0,
        ge=0,
        description="how often a node publishes a probe to itself to prove that it receives from the bus; 0 turns the "
        "probe off",
    )
    deaf_after_s: float = Field(
        6.0,
        gt=0,
        description="a node that receives no probe for this long subscribes again; it is not ready until it receives "
        "one",
    )
    lease_ttl_s: float = Field(
        4.5, gt=0, description="a node that does not renew its lease for this long counts as dead"
    )
    lease_renew_s: float = Field(1.0, gt=0, description="how often a node renews its lease")

    orphaned_sessions: Literal["continue", "cancel"] = Field(
        "continue",
        description="what happens to running sessions when their constellation closes with 1000 or does not return "
        "within reconnect_grace_s; a task can override it in metadata.orphaned_sessions",
    )
    reconnect_grace_s: float = Field(
        15.0,
        ge=0,
        description="how long the cluster waits for a client whose socket broke; 0 ends its sessions at once, as UFO's "
        "server does",
    )

    # Access.
    api_key: SecretStr | None = Field(
        None, description="UFO's single key: REST requires it in X-API-Key; /ws requires it there or as ?token="
    )

    allowed_origins: str = Field(
        "",
        description="web pages of other sites that may open sockets and send changes, separated by commas, for example "
        "https://console.example; pages from the node's own address always may",
    )
    allowed_hosts: str = Field(
        "",
        description="host names that the node answers to, separated by commas: aip.example, *.example, or * for any. IP"
        " addresses, localhost and its own name always work; other names get 421, except on /livez and "
        "/readyz. Default: any name if api_key is set, no other name if not",
    )

    # Sessions.
    session_timeout_s: float = Field(600.0, gt=0, description="deadline of a session whose task sets none")
    max_session_timeout_s: float = Field(86_400.0, gt=0, description="longest deadline that a task may set")
    result_ttl_s: int = Field(86_400, gt=0, description="how long an ended session can be read")
    idempotency_ttl_s: int = Field(
        86_400, gt=0, description="how long a dispatch with an Idempotency-Key is remembered"
    )
    echo_wait_s: float = Field(
        1.0,
        ge=0,
        description="how long a session waits for the device to repeat the task, as UFO's client does, before it sends "
        "commands",
    )

    # Planners.
    planner: str = Field("auto", description="planner of a dispatch that names none")
    llm_base_url: str | None = Field(None, description="OpenAI-compatible endpoint of planner llm, up to /v1")
    llm_api_key: SecretStr | None = Field(None, description="key of the llm endpoint")
    llm_model: str | None = Field(None, description="model of planner llm")
    llm_temperature: float = Field(0.0, ge=0, le=2, description="sampling temperature")
    llm_max_steps: int = Field(30, gt=0, description="most steps of a session with planner llm")
    llm_max_tokens: int = Field(200_000, gt=0, description="most tokens of a session with planner llm")
    llm_timeout_s: float = Field(60.0, gt=0, description="longest wait for one answer of the llm endpoint")
    llm_stream: bool = Field(False, description="request streamed answers from the llm endpoint")
    llm_config: Path | None = Field(None, description="YAML file with a model per agent, like UFO's config_dev.yaml")
    tool_secrets: dict[str, dict[str, SecretStr]] = Field(
        default_factory=dict,
        description="JSON {tool: {parameter: value}}: the node fills these parameters in; models, steps and logs do not"
        " see them",
    )
    devices_config: Path | None = Field(None, description="YAML file with tags and custom metadata of devices")
    tools_timeout_s: float = Field(10.0, gt=0, description="longest wait for a device's list of tools")
    command_timeout_s: float = Field(
        300.0,
        gt=0,
        description="longest wait for a device's answer to a command without a timeout_s of its own; a device that "
        "lists `deduplicates` has until the session's deadline",
    )

    # Sockets and requests.
    register_timeout_s: float = Field(
        10.0, gt=0, description="a socket that has not registered after this time is closed with 4001"
    )
    ping_interval_s: float = Field(20.0, gt=0, description="time between two WebSocket pings")
    ping_timeout_s: float = Field(20.0, gt=0, description="a socket without a pong for this long is closed with 1011")
    max_frame_bytes: int = Field(
        100 * 1024 * 1024,
        gt=0,
        description="largest WebSocket message of a registered client, the same as in UFO's server; before registration"
        " the limit is 256 KiB",
    )
    max_result_bytes: int = Field(
        16 * 1024 * 1024,
        ge=256 * 1024,
        description="largest message with results; a larger one is not parsed and fails its session with `result too "
        "large`; the socket stays open",
    )
    arriving_bytes: int = Field(
        256 * 1024 * 1024,
        gt=0,
        description="memory for all messages above 64 KiB that are arriving; when it is used up, the node reads further"
        " ones later",
    )
    max_body_bytes: int = Field(2 * 1024 * 1024, gt=0, description="largest request body")
    max_request_bytes: int = Field(
        64 * 1024,
        gt=0,
        description="largest `request` of a task, as UTF-8; REST answers 413 to a larger one, a socket gets an `error` "
        "that names the field",
    )
    max_metadata_bytes: int = Field(
        64 * 1024, gt=0, description="largest `metadata` of a task, as JSON; refused as max_request_bytes says"
    )
    max_commands_bytes: int = Field(
        512 * 1024, gt=0, description="largest `commands` of a task, as JSON; refused as max_request_bytes says"
    )
    max_queued_bytes_per_client: int = Field(
        8 * 1024 * 1024,
        gt=0,
        description="bytes of tasks (`queue_if_offline`) that may wait for one offline device; above it 429",
    )
    max_queued_bytes_per_credential: int = Field(
        256 * 1024 * 1024,
        gt=0,
        description="bytes of tasks sent with one credential that may wait for offline devices; above it 429",
    )
    max_queued_bytes: int = Field(
        256 * 1024 * 1024,
        gt=0,
        description="bytes of tasks in the whole cluster that may wait for offline devices; above it 429",
    )
    max_files_bytes_per_credential: int = Field(
        512 * 1024 * 1024, gt=0, description="bytes of session files stored with one credential; above it 429"
    )
    max_files_bytes: int = Field(
        512 * 1024 * 1024, gt=0, description="bytes of session files stored in the whole cluster; above it 429"
    )
    max_file_bytes: int = Field(100 * 1024 * 1024, gt=0, description="largest file of a session")
    send_queue_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="unsent bytes above which a slow client's socket is closed with 4100"
    )
    max_wait_s: float = Field(60.0, gt=0, description="longest ?wait= for a result")
    max_event_streams: int = Field(1000, gt=0, description="most event streams of sessions at a time")
    drain_rate_per_s: float = Field(
        100.0,
        gt=0,
        description="sockets per second that a draining node asks to move; faster if drain_deadline_s requires it",
    )
    # UFO's tools run for 120 s at most; the rest is for the answer to arrive.
    drain_deadline_s: float = Field(
        130.0, ge=0, description="time after the start of a drain at which all remaining sockets are asked to move"
    )
    drain_linger_s: float = Field(
        5.0,
        ge=0,
        description="longest wait for kept-alive connections to close after the last socket has moved",
    )
    shutdown_timeout_s: float = Field(10.0, gt=0, description="after the drain, the process ends within this time")

    # Overload: what is above these is refused, with a time after which to ask again. A rate of 0 is none.
    connect_rate_per_s: float = Field(
        500.0,
        ge=0,
        description="new sockets per second on average; others get 503 and a jittered Retry-After before the upgrade; 0"
        " sets no limit",
    )
    connect_burst: int = Field(1000, gt=0, description="new sockets that are accepted at once")
    max_connections: int = Field(20_000, gt=0, description="most sockets at a time")
    max_unregistered: int = Field(2000, gt=0, description="most sockets that have not registered yet")
    max_registering: int = Field(200, gt=0, description="registrations that are stored at a time; others wait")
    max_tcp_connections: int = Field(
        25_000,
        gt=0,
        description="most TCP connections at a time, REST and sockets; above it, the connection that has waited longest"
        " without a complete request is closed",
    )
    head_timeout_s: float = Field(10.0, gt=0, description="time within which the head of a request must arrive")
    body_timeout_s: float = Field(30.0, gt=0, description="time within which the JSON body of a request must arrive")
    message_rate_per_s: float = Field(
        500.0,
        ge=0,
        description="frames per second read from one socket, including pings and fragments; above it the socket is read"
        " more slowly; 0 sets no limit",
    )
    message_burst: int = Field(2000, gt=0, description="frames that are read from one socket at once")
    message_bytes_per_s: float = Field(
        16 * 1024 * 1024,
        ge=0,
        description="bytes per second read from one socket on average; above it the socket is read more slowly and "
        "never closed; 0 sets no limit",
    )
    message_bytes_burst: int = Field(128 * 1024 * 1024, gt=0, description="bytes that are read from one socket at once")
    message_patience_s: float = Field(
        30.0, ge=0, description="a socket that stays above message_rate_per_s for longer is closed with 4103"
    )
    max_sessions_per_device: int = Field(64, gt=0, description="most running sessions on one device; exact")
    max_sessions_per_node: int = Field(
        10_000,
        gt=0,
        description="most running sessions on the devices of one node; other nodes learn its count within about two "
        "seconds, and ask it after they have sent many tasks",
    )
    max_requests: int = Field(1000, gt=0, description="most REST requests that are processed at a time, without probes")
    max_waiters: int = Field(5000, gt=0, description="most REST requests that wait for a result at a time")

    address_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of max_requests, max_waiters, max_event_streams, max_unregistered and max_tcp_connections "
        "that one client address (IPv6: one /64) may use; others get 429, TCP connections are closed. "
        "Behind a proxy the node takes the address that the proxy names, if FORWARDED_ALLOW_IPS lists the "
        "proxy; if it does not, set 1",
    )

    # Logs and traces.
    trace_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector (OTLP/HTTP), for example http://collector:4318; needs the extra `otel`; "
        "OTEL_EXPORTER_OTLP_ENDPOINT does the same",
    )
    log_format: Literal["text", "json"] = Field("text", description="one line of text or one JSON object per record")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("node_id")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
            raise ValueError("may hold only letters, digits, '.', '_' and '-', 64 at most")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: str) -> str:
        for name in filter(None, map(str.strip, value.split(","))):
            if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9._-]{1,253}", name):
                raise ValueError(f"'{name[:64]}' must be a host name without scheme and port, *.example, or *")
        return value

    @field_validator("api_key", "redis_password", "redis_sentinel_password")
    @classmethod
    def _not_blank(cls, value: SecretStr | None) -> SecretStr | None:
        # An empty variable must not switch the guard off without a word, nor guard with an empty key.
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("must not be empty; leave it out to do without")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.probe_interval_s * 2 > self.deaf_after_s:
            raise ValueError("deaf_after_s must be at least twice probe_interval_s")
        if self.min_replicas and self.replica_wait_ms >= self.redis_timeout_s * 1000:
            raise ValueError("replica_wait_ms must be less than redis_timeout_s")
        if self.lease_renew_s * 2 > self.lease_ttl_s:
            raise ValueError("lease_renew_s must be at most half of lease_ttl_s, or one lost renewal ends the lease")
        if self.max_tcp_connections <= self.max_connections:
            raise ValueError("max_tcp_connections must be above max_connections, or no request gets through")
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError("metrics_port must not be port; 0 serves /metrics there")
        if self.max_frame_bytes > self.arriving_bytes:
            raise ValueError("arriving_bytes must be at least max_frame_bytes, or the largest message never arrives")
        if self.session_timeout_s > self.max_session_timeout_s:
            raise ValueError("session_timeout_s must not be above max_session_timeout_s")
        return self

    @property
    def full_redis_url(self) -> str:
        """`redis_url` with the passwords that came apart from it: for no log. Raises ValueError."""
        password, sentinel = (
            None if secret is None else secret.get_secret_value()
            for secret in (self.redis_password, self.redis_sentinel_password)
        )
        return with_passwords(self.redis_url, password, sentinel)

    @property
    def bind_host(self) -> str:
        """The address to listen on, with `local` applied."""
        return "127.0.0.1" if self.local else self.host


def unknown_variables() -> list[str]:
    """`AIP_*` variables in the environment that no setting reads."""
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    return sorted(
        name
        for name in os.environ
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() not in known
        and not name.upper().startswith(FOREIGN_PREFIXES)
    )
