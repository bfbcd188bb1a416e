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
        None, description="treat every device as of this platform; by default each says its own"
    )
    log_level: Annotated[LogLevel, NoDecode] = Field("INFO", description="lowest level that is logged; OFF for none")
    local: bool = Field(False, description="listen on the loopback interface only")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of its own for /metrics, with /livez and /readyz; 0: with everything else"
    )

    # The cluster.
    redis_url: str = Field(
        "embedded://",
        description="redis://, unix://, redis+sentinel://, redis+cluster:// (rediss: TLS), or embedded:// for one node "
        "without any Redis",
    )
    redis_password: SecretStr | None = Field(
        None, description="password of the servers, where it is not part of redis_url"
    )
    redis_sentinel_password: SecretStr | None = Field(None, description="password of the sentinels, likewise")
    node_id: str = Field(
        default_factory=lambda: re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()) or "node",
        description="name of this node; a random suffix makes it unique per start",
    )
    key_prefix: str = Field("aip", description="first part of every Redis key, for several clusters in one Redis")
    redis_timeout_s: float = Field(3.0, gt=0, description="longest wait for one call to Redis")
    min_replicas: int = Field(
        0, ge=0, description="a dispatch is accepted only once so many Redis replicas hold it, too; 0: none"
    )
    replica_wait_ms: int = Field(500, gt=0, description="longest wait for those replicas, ms")
    redis_queue_share: float = Field(
        0.9, gt=0, description="of maxmemory: from here on no files, and no tasks that may wait for their device"
    )
    redis_task_share: float = Field(0.95, gt=0, description="of maxmemory: from here on no new tasks")
    probe_interval_s: float = Field(
        2.0, ge=0, description="how often a node proves to itself that it hears the bus; 0: never"
    )
    deaf_after_s: float = Field(6.0, gt=0, description="a node that hears nothing of that for so long subscribes anew")
    lease_ttl_s: float = Field(4.5, gt=0, description="a node silent for this long is dead")
    lease_renew_s: float = Field(1.0, gt=0, description="how often a node says that it is alive")

    orphaned_sessions: Literal["continue", "cancel"] = Field(
        "continue", description="what becomes of the running sessions of a constellation that has left for good"
    )
    reconnect_grace_s: float = Field(
        15.0, ge=0, description="how long a client whose socket broke may be away; 0 ends its sessions at once"
    )

    # Access.
    api_key: SecretStr | None = Field(
        None, description="when set, REST wants it in X-API-Key, and /ws there or as ?token="
    )

    allowed_origins: str = Field(
        "",
        description="web pages of other sites that may use the node, separated by commas, as https://console.example",
    )
    allowed_hosts: str = Field(
        "",
        description="host names that the node answers to, separated by commas, beside IP addresses, localhost and its "
        "own; *.example for all below, * for any; by default any if an api_key is set, and no other if not",
    )

    # Sessions.
    session_timeout_s: float = Field(600.0, gt=0, description="deadline of a session that names none")
    max_session_timeout_s: float = Field(86_400.0, gt=0, description="longest deadline that may be asked for")
    result_ttl_s: int = Field(86_400, gt=0, description="how long an ended session can be read")
    idempotency_ttl_s: int = Field(
        86_400, gt=0, description="how long a dispatch under an Idempotency-Key is remembered"
    )
    echo_wait_s: float = Field(
        1.0,
        ge=0,
        description="how long the first commands wait for the device to repeat the task, as UFO's client does",
    )

    # Planners.
    planner: str = Field("auto", description="the planner of a dispatch that names none")
    llm_base_url: str | None = Field(None, description="OpenAI-compatible endpoint for planner llm, up to /v1")
    llm_api_key: SecretStr | None = Field(None, description="its key")
    llm_model: str | None = Field(None, description="its model")
    llm_temperature: float = Field(0.0, ge=0, le=2, description="sampling temperature")
    llm_max_steps: int = Field(30, gt=0, description="most steps of a session that a model plans")
    llm_max_tokens: int = Field(200_000, gt=0, description="most tokens of a session that a model plans")
    llm_timeout_s: float = Field(60.0, gt=0, description="longest wait for one answer of the endpoint")
    llm_stream: bool = Field(False, description="ask for streamed answers")
    llm_config: Path | None = Field(None, description="YAML with a model per agent, like UFO's config_dev.yaml")
    tool_secrets: dict[str, dict[str, SecretStr]] = Field(
        default_factory=dict,
        description="JSON {tool: {parameter: value}}: filled in by the node, unseen by models, steps and logs",
    )
    devices_config: Path | None = Field(None, description="YAML with tags and custom metadata of devices")
    tools_timeout_s: float = Field(10.0, gt=0, description="longest wait for a device's list of tools")
    command_timeout_s: float = Field(
        300.0,
        gt=0,
        description="longest wait for an answer to a command; none where the device lists `deduplicates`",
    )

    # Sockets and requests.
    register_timeout_s: float = Field(10.0, gt=0, description="a socket that has not registered by then is closed")
    ping_interval_s: float = Field(20.0, gt=0, description="WebSocket ping period")
    ping_timeout_s: float = Field(20.0, gt=0, description="a socket whose pong is later than this is dead")
    max_frame_bytes: int = Field(
        100 * 1024 * 1024, gt=0, description="largest WebSocket message of a registered client, as UFO's server has it"
    )
    max_result_bytes: int = Field(
        16 * 1024 * 1024, ge=256 * 1024, description="largest message with results; a larger one fails its session"
    )
    arriving_bytes: int = Field(
        256 * 1024 * 1024, gt=0, description="memory for large messages that are arriving, of all sockets together"
    )
    max_body_bytes: int = Field(2 * 1024 * 1024, gt=0, description="largest request body")
    max_request_bytes: int = Field(64 * 1024, gt=0, description="largest `request` of a task, as UTF-8")
    max_metadata_bytes: int = Field(64 * 1024, gt=0, description="largest `metadata` of a task, as JSON")
    max_commands_bytes: int = Field(512 * 1024, gt=0, description="largest `commands` of a task, as JSON")
    max_queued_bytes_per_client: int = Field(
        8 * 1024 * 1024, gt=0, description="bytes of tasks that wait for one device that is not connected"
    )
    max_queued_bytes_per_credential: int = Field(
        256 * 1024 * 1024, gt=0, description="the same of all devices, by the credential that the tasks came with"
    )
    max_queued_bytes: int = Field(256 * 1024 * 1024, gt=0, description="the same of the whole cluster")
    max_files_bytes_per_credential: int = Field(
        512 * 1024 * 1024, gt=0, description="bytes of stored files, by the credential that they came with"
    )
    max_files_bytes: int = Field(512 * 1024 * 1024, gt=0, description="the same of the whole cluster")
    max_file_bytes: int = Field(100 * 1024 * 1024, gt=0, description="largest file of a session")
    send_queue_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="unsent bytes after which a slow client's socket is closed"
    )
    max_wait_s: float = Field(60.0, gt=0, description="longest ?wait= of a result")
    max_event_streams: int = Field(1000, gt=0, description="most event streams of sessions served at a time")
    drain_rate_per_s: float = Field(
        100.0, gt=0, description="sockets a node that stops asks to move per second; faster if the deadline asks it"
    )
    # UFO's tools run for 120 s at most; the rest is for the answer to arrive.
    drain_deadline_s: float = Field(130.0, ge=0, description="after SIGTERM whoever is left must move by then")
    drain_linger_s: float = Field(
        5.0,
        ge=0,
        description="longest wait, after the last socket has moved, for kept-alive connections to be given up",
    )
    shutdown_timeout_s: float = Field(10.0, gt=0, description="after the drain the process has ended by then")

    # Overload: what is above these is refused, with a time after which to ask again. A rate of 0 is none.
    connect_rate_per_s: float = Field(500.0, ge=0, description="new sockets per second that are let in on the average")
    connect_burst: int = Field(1000, gt=0, description="new sockets that are let in at once")
    max_connections: int = Field(20_000, gt=0, description="most sockets at a time")
    max_unregistered: int = Field(2000, gt=0, description="most sockets that have not registered yet")
    max_registering: int = Field(200, gt=0, description="registrations that are stored at a time; others wait")
    max_tcp_connections: int = Field(25_000, gt=0, description="most TCP connections at a time, REST and sockets")
    head_timeout_s: float = Field(10.0, gt=0, description="the head of a request must be there by then")
    body_timeout_s: float = Field(30.0, gt=0, description="the JSON body of a request must be there by then")
    message_rate_per_s: float = Field(500.0, ge=0, description="frames per second that are read from one socket")
    message_burst: int = Field(2000, gt=0, description="frames that are read from one socket at once")
    message_bytes_per_s: float = Field(
        16 * 1024 * 1024, ge=0, description="bytes per second that are read from one socket on the average"
    )
    message_bytes_burst: int = Field(128 * 1024 * 1024, gt=0, description="bytes that are read from one socket at once")
    message_patience_s: float = Field(30.0, ge=0, description="a socket that presses on for longer is closed")
    max_sessions_per_device: int = Field(64, gt=0, description="most sessions under way on one device")
    max_sessions_per_node: int = Field(10_000, gt=0, description="most sessions under way on the devices of one node")
    max_requests: int = Field(1000, gt=0, description="most REST requests that are worked on at a time")
    max_waiters: int = Field(5000, gt=0, description="most REST requests that wait for a result at a time")

    address_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of max_requests, max_waiters, max_event_streams, max_unregistered and max_tcp_connections "
        "that one client address may have; 1: all of it",
    )

    # Logs and traces.
    trace_endpoint: str | None = Field(
        None,
        description="collector of traces (OTLP/HTTP), as http://collector:4318; as OTEL_EXPORTER_OTLP_ENDPOINT does",
    )
    log_format: Literal["text", "json"] = Field("text", description="one line of text, or one JSON object, per record")

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
