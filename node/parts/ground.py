"""What every room of a node stands on: who it is, what it counts with, the shared state and the bus."""

import secrets

from node.auth import Auth
from node.background import Background
from node.parsing import Parsing
from node.proxies import Proxies
from node.settings import Settings
from node.telemetry.metrics import Metrics
from node.telemetry.tracing import tracing_for
from node.web_guard import WebGuard
from shared_state import State
from shared_state.quotas import Bounds

__all__ = ["Ground"]


class Ground:
    """Made first. Raises ValueError if a setting cannot be met."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Unique per start: what an earlier process of this name held is void, whatever it held.
        self.node_id = f"{settings.node_id}.{secrets.token_hex(3)}"
        self.auth = Auth(settings.api_key)
        self.web_guard = WebGuard(settings)
        self.proxies = Proxies()
        self.background = Background()
        self.metrics = Metrics()
        self.parsing = Parsing()
        self.tracing = tracing_for(settings, self.node_id)
        self.state = State(
            settings.full_redis_url,
            prefix=settings.key_prefix,
            lease_ttl_s=settings.lease_ttl_s,
            result_ttl_s=settings.result_ttl_s,
            idempotency_ttl_s=settings.idempotency_ttl_s,
            max_sessions_per_device=settings.max_sessions_per_device,
            timeout_s=settings.redis_timeout_s,
            min_replicas=settings.min_replicas,
            replica_wait_ms=settings.replica_wait_ms,
            queue_share=settings.redis_queue_share,
            task_share=settings.redis_task_share,
            bounds=Bounds(
                queued_of_client=settings.max_queued_bytes_per_client,
                queued_of_credential=settings.max_queued_bytes_per_credential,
                queued=settings.max_queued_bytes,
                files_of_credential=settings.max_files_bytes_per_credential,
                files=settings.max_files_bytes,
            ),
            credential=self.auth.credential,
            observer=self.metrics.observe_redis,
            on_said=self.metrics.frame_said,
        )
        self.bus = self.state.bus(
            self.node_id,
            probe_interval_s=settings.probe_interval_s,
            deaf_after_s=settings.deaf_after_s,
            observer=self.metrics,
        )
