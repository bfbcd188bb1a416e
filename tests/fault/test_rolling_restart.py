"""Every node is restarted, one after another, under load: nothing fails, nothing is lost, everybody comes back."""

from pathlib import Path

import pytest

from devtools.cluster import Cluster, Plan
from devtools.rolling.restart import Outcome, rolling_restart
from devtools.servers import Servers
from devtools.topologies import free_ports, redis_program
from tests.integration.harness.nginx import nginx_binary
from tests.support.redis_server import require_redis

pytestmark = pytest.mark.integration

DEVICES = 60
RATE_PER_S = 20.0
NODES = 3
# The ports that a cluster takes, as offsets from its base port: nginx, the nodes, Redis.
OFFSETS = (*range(NODES + 1), 100)


async def restarted(run_dir: Path) -> Outcome:
    """The outcome of a run, on ports that are free."""
    require_redis()
    servers = Servers(Path(redis_program() or ""), Path(nginx_binary()))
    plan = Plan(nodes=NODES, base_port=free_ports(OFFSETS), run_dir=run_dir, redis_url=None, demo=False, detach=False)
    return await rolling_restart(Cluster(plan, servers, lambda: None), devices=DEVICES, rate_per_s=RATE_PER_S)


async def test_a_rolling_restart_fails_nothing_and_loses_nothing(tmp_path: Path) -> None:
    outcome = await restarted(tmp_path)
    print(outcome)
    assert outcome.refused == []
    assert outcome.lost == []
    assert outcome.gone == []
    # Every device was moved at least once, by the node that held it.
    assert len(outcome.away_s) >= DEVICES
    assert outcome.passed, str(outcome)


async def test_without_a_time_to_come_back_the_same_run_loses_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demonstration: sockets move as before, and whoever moves is taken for gone."""
    monkeypatch.setenv("AIP_RECONNECT_GRACE_S", "0")
    outcome = await restarted(tmp_path)
    print(outcome)
    assert outcome.refused
    assert outcome.lost
