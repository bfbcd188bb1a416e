"""Row `idle`: what a fleet costs that does nothing but be there."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from devtools.bench.connections import TRAFFIC
from devtools.bench.contestants import FLEET_SETTINGS, cluster
from devtools.bench.redis_cost import Watched, redis_use, time_by_kind, watching
from devtools.bench.rows.base import Lab, Row, figure
from devtools.bench.rows.gathering import gathering

__all__ = ["idle"]

DEVICES, HEARTBEAT_S = 5_000, 20
HOW = (
    f"{DEVICES:,} devices on one of two nodes, a heartbeat from each every {HEARTBEAT_S} s beside the node's pings; "
    "commands as clients send them, counted with MONITOR; processor time in another stretch"
)


@dataclass(frozen=True)
class _Rest:
    """Per second; `node_cpu` of the node that holds the sockets, `other_cpu` of the one that holds none."""

    watched: Watched
    seconds: float
    by_kind_us: Mapping[str, int]
    node_cpu: float
    other_cpu: float
    redis_cpu: float
    client_bytes: float


async def idle(lab: Lab) -> Row:
    """Commands a second. Raises BenchError, ScriptError."""
    rests = [await _rest(lab) for _ in range(lab.few_rounds)]
    last = rests[-1]
    value = figure(
        "idle/commands",
        "idle cluster: Redis commands/s with 5,000 connected devices, heartbeats every 20 s",
        "/s",
        [rest.watched.sent.total() / rest.seconds for rest in rests],
        better="lower",
        floor=100,
        aim=30,
        beside={
            "called by scripts, /s": [rest.watched.in_scripts.total() / rest.seconds for rest in rests],
            "node, % of a processor": [rest.node_cpu * 100 for rest in rests],
            "Redis, % of a processor": [rest.redis_cpu * 100 for rest in rests],
        },
    )
    details = {
        "devices": lab.scale(DEVICES, 200),
        "heartbeat_s": HEARTBEAT_S,
        "seconds": last.seconds,
        "sent_per_s": {name: n / last.seconds for name, n in last.watched.sent.most_common()},
        "in_scripts_per_s": {name: n / last.seconds for name, n in last.watched.in_scripts.most_common()},
        "by_key_per_s": {name: n / last.seconds for name, n in last.watched.by_key.most_common()},
        "us_by_key_per_s": {name: us / last.seconds for name, us in last.by_kind_us.items()},
        "node_cpu_share": [rest.node_cpu for rest in rests],
        "other_node_cpu_share": [rest.other_cpu for rest in rests],
        "client_bytes_per_s": [rest.client_bytes for rest in rests],
        "redis_cpu_share": [rest.redis_cpu for rest in rests],
    }
    return Row("idle", [value], details, HOW)


async def _rest(lab: Lab) -> _Rest:
    async with gathering(lab, cluster(2, FLEET_SETTINGS), lab.scale(DEVICES, 200)) as (running, fleet):
        async with fleet.beating(HEARTBEAT_S):
            await asyncio.sleep(lab.scale(HEARTBEAT_S, 1))
            seconds = float(lab.scale(30, 2))
            loop = asyncio.get_running_loop()
            start, cpu, used = loop.time(), running.cpu_of_each(), redis_use(running.redis)
            traffic = TRAFFIC.total
            with time_by_kind(running.redis) as by_kind_us:
                await asyncio.sleep(seconds)
            took_s = loop.time() - start
            spent = [
                (after - before).total_s / took_s for after, before in zip(running.cpu_of_each(), cpu, strict=True)
            ]
            traffic_per_s = (TRAFFIC.total - traffic) / took_s
            rested = redis_use(running.redis) - used
            async with watching(running.redis) as watched:
                start = loop.time()
                await asyncio.sleep(seconds)
                watched_s = loop.time() - start
        return _Rest(watched, watched_s, by_kind_us, spent[0], spent[1], rested.cpu_s / took_s, traffic_per_s)
